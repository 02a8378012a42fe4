"""Trainings that open no test photos: what `thaw best` judges ways by, and takes their time with.

Each is an ordinary run of `one_run`, up to the test.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from torch import Tensor

from thaw.best.ways import Cost, Way, once, rehearsal
from thaw.commands import in_python, one_run
from thaw.data.folder import PhotoFolder
from thaw.evaluation import calibrate
from thaw.launch.mistakes import composed, read
from thaw.launch.typed import quoted
from thaw.model import bundle
from thaw.report import loggers
from thaw.runs.folder import RunFolder
from thaw.training.unfreezing import StagedUnfreezing

QUIET = "logger=none"  # of what only a search looks at


class TooSlow(BaseException):
    """Time was up before a training was over. As `Interrupted`, it isn't for handlers of errors."""


class NotTested(Exception):
    """Why a run of a search isn't done: one of them is tested, in the end."""


class Deadline(Callback):
    """Ends a training after the batch in which time is up.

    Args:
        left: seconds until then.
    """

    def __init__(self, left: Callable[[], float]) -> None:
        self.left = left

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Look at the clock.

        Raises:
            TooSlow: it is time.
        """
        if self.left() < 0:
            raise TooSlow


class Stopwatch(Callback):
    """Seconds a photo in the last train and the last val batch of each phase: the first warm up."""

    def __init__(self) -> None:
        self.train: dict[str, float] = {}
        self.val: dict[str, float] = {}
        self.busy, self.began = 0.0, 0.0

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = time.perf_counter()

    on_validation_batch_start = on_train_batch_start

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note."""
        self._note(self.train, trainer, batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note."""
        self._note(self.val, trainer, batch)

    def _note(self, paces: dict[str, float], trainer: Trainer, batch: Mapping[str, Tensor]) -> None:
        seconds = time.perf_counter() - self.began
        staged = next(c for c in trainer.callbacks if isinstance(c, StagedUnfreezing))  # type: ignore[attr-defined]
        paces[staged.phase.name] = seconds / len(batch["label"])
        self.busy += seconds


def measure(way: Way, shared: Sequence[str], folder: Path, data: PhotoFolder) -> Cost:
    """Train a way for an epoch a phase on a few photos, to see what all will take."""
    cfg = composed([*shared, *way.words, QUIET])
    short = composed([*shared, *way.words, QUIET, *once(cfg.finetune.phases)])
    few = data.splits["train"]
    size = int(cfg.data.batch_size)
    watch, began = Stopwatch(), time.perf_counter()
    photos = {"train": rehearsal(few, 3 * size // 2), "val": rehearsal(few, size // 4)}
    shutil.rmtree(folder, ignore_errors=True)  # of a call that broke off
    trained(short, RunFolder(folder), [watch], data.shared_out({**photos, "test": []}, {}))
    shutil.rmtree(folder)
    start = time.perf_counter() - began - watch.busy
    epochs = {name: phase.get("epochs", 0) for name, phase in cfg.finetune.phases.items()}
    train = sum(epochs[name] * pace for name, pace in watch.train.items())
    look = [*watch.val.values()][-1]  # of what the last epoch's net says
    val = sum(epochs[name] * pace for name, pace in watch.val.items()) + look
    return Cost(start, train, val, look)


def fold(
    way: Way,
    shared: Sequence[str],
    folder: Path,
    photos: PhotoFolder,
    left: Callable[[], float],
) -> Tensor:
    """What a way says of these photos' val split `[n, classes]`, trained on their train split.

    Raises:
        TooSlow: no time is `left`.
    """
    cfg = composed([*shared, *way.words, QUIET])
    shutil.rmtree(folder, ignore_errors=True)
    try:
        training = trained(cfg, RunFolder(folder), [Deadline(left)], photos)
        return said_of_val(training)["logits"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fit(
    way: Way, shared: Sequence[str], folder: Path, left: Callable[[], float]
) -> one_run.Training:
    """The ordinary run of a way, up to its test: `test` goes on with it.

    Raises:
        TooSlow: no time is `left`.
        UserError: a setting can't be used, or training diverged.
    """
    found: list[one_run.Training] = []

    def do(cfg: DictConfig, run: RunFolder, choices: Mapping[str, str], sweep: bool) -> float:
        try:
            found.append(trained(cfg, run, [Deadline(left)]))
        except TooSlow as error:
            run.end("interrupted", error)
            raise
        run.end("interrupted", NotTested("test comes last"))
        return 0.0

    in_python.begun(words_of(way, shared, folder), do, logging.WARNING)
    return found[0]


def test(way: Way, shared: Sequence[str], folder: Path) -> None:
    """Open test, for a way that has been fitted, and write what a run folder holds."""
    in_python.begun(words_of(way, shared, folder), one_run.one_run)  # the search says how to go on


def words_of(way: Way, shared: Sequence[str], folder: Path) -> list[str]:
    """Words of the ordinary run of a way in this folder."""
    return read([*shared, *way.words, f"hydra.run.dir={quoted(str(folder.resolve()))}"])


def said_of_val(training: one_run.Training) -> dict[str, Tensor]:
    """What the net, as it is now, says of the val photos."""
    module, loader = training.module, training.data.val_dataloader()
    module.compile_net = False
    module.phase_changed()
    training.trainer.test(module, [loader], verbose=False)
    return module.results(0)


def keep_model(training: one_run.Training, folder: Path) -> None:
    """Write the bundle of a run whose test comes later: calibrated on val, without a promise."""
    data = training.data
    training.saved.load_best(training.module)
    val = said_of_val(training)
    prior = None if data.balance == "none" else data.class_shares()
    shift = torch.tensor(prior).log() if prior else 0.0
    facts = {"temperature": calibrate.fit(val["logits"], val["label"], shift), "prior": prior}
    facts |= {"data_sha256": data.digest(), "white": data.white}
    backbone = training.module.backbone
    bundle.save(folder, backbone, data.classes, **facts)


def trained(
    cfg: DictConfig,
    run: RunFolder,
    callbacks: Sequence[Callback],
    photos: PhotoFolder | None = None,
) -> one_run.Training:
    """A run as far as before its test.

    Args:
        photos: in place of those of the settings; what forgetting they cause isn't measured.
    """
    run.claim()
    parts = one_run.build(cfg, run.path, sweep=True, data=photos)
    parts = replace(parts, callbacks=[*parts.callbacks, *callbacks])
    with loggers.closing(parts.loggers):
        training = one_run.assemble(parts, run)
        if photos:
            training.forgetting.head = None
        one_run.begin(training, parts)
        one_run.fit(training)
    return training
