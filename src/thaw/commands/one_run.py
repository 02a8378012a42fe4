"""One run, from settings to the folder that it leaves: build → assemble → fit → test → leave.

Settings (`cfg`) stop in `build`: below it are objects and plain values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from thaw.data.augment import Augment
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.errors import UserError
from thaw.evaluation import scores
from thaw.evaluation.unfamiliar import on_known
from thaw.launch import cli, memory
from thaw.model import bundle
from thaw.model.familiar import store
from thaw.model.familiar.store import Familiar
from thaw.nets.backbone import Backbone
from thaw.report import metrics as report
from thaw.report import terminal
from thaw.runs.folder import RunFolder, plain
from thaw.sweeps import jobs
from thaw.training import lr_find
from thaw.training.checkpoints import Checkpoints, resume_point
from thaw.training.features import Extractor
from thaw.training.forgetting import Forgetting
from thaw.training.frozen import FrozenWork
from thaw.training.history import History
from thaw.training.module import Classifier, MakeOptimizer, check_optimizer
from thaw.training.schedule import Schedule
from thaw.training.trainer import make_trainer
from thaw.training.unfreezing import MONITOR, StagedUnfreezing

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What the settings stand for: an object a group, and plain values."""

    seed: int
    cache: FeatureCache
    schedule: Schedule
    optimizer: MakeOptimizer
    augment: Augment | None
    backbone: Backbone
    data: PhotoFolder
    trainer: dict[str, Any]
    settings: dict[str, Any]  # all of them, for the run's folder


@dataclass
class Training:
    """Who takes part in a run."""

    run: RunFolder
    data: PhotoFolder
    module: Classifier
    trainer: Trainer
    staged: StagedUnfreezing
    history: History
    saved: Checkpoints
    extractor: Extractor
    work: FrozenWork
    forgetting: Forgetting
    clock: report.Clock = field(default_factory=report.Clock)


@dataclass(frozen=True)
class Tested:
    """Logits `[N, classes]`, features `[N, D]` and labels `[N]` of val and test; what training made
    forget; and what is familiar.
    """

    val: dict[str, Tensor]
    test: dict[str, Tensor]
    forgotten: dict[str, float]
    familiar: Familiar


def one_run(
    cfg: DictConfig, run: RunFolder, choices: Mapping[str, str], sweep: bool = False
) -> float:
    """Build all from the settings, train, test the best epoch, and write the run folder.

    Args:
        choices: the file that each group of settings was given by.
        sweep: whether the run is a job of one, which draws figures of its own.

    Returns:
        The best val loss.
    """
    parts = build(cfg, sweep)
    training = assemble(parts, run)
    begin(training, parts)
    forgotten = fit(training)
    tested = test(training, forgotten)
    if training.trainer.is_global_zero:
        leave(training, tested, parts, choices, figures=not sweep)
    return training.history.best[MONITOR]


def build(cfg: DictConfig, sweep: bool = False) -> Parts:
    """Make the object that each group of settings names; all that is wrong is told at once.

    Raises:
        UserError: some settings can't be used.
    """

    def seed() -> int:
        cli.check_seed(cfg.seed)
        torch.manual_seed(cfg.seed)  # before the net is built: it may begin with random weights
        return cfg.seed

    makers: dict[str, Callable[[], Any]] = {
        "seed": seed,
        "cache": lambda: FeatureCache(**cfg.cache),
        "schedule": lambda: _of(Schedule, "finetune", instantiate(cfg.finetune)),
        "optimizer": lambda: check_optimizer(instantiate(cfg.optimizer)),
        "augment": lambda: instantiate(cfg.augment),
        "backbone": lambda: _of(Backbone, "arch", jobs.backbone(cfg.arch, shared=sweep)),
        "data": lambda: _of(PhotoFolder, "data", instantiate(cfg.data, seed=cfg.seed)).checked(),
        "trainer": lambda: OmegaConf.to_container(cfg.trainer, resolve=True),
    }
    made = dict(zip(makers, cli.build_all(*makers.values()), strict=True))
    return Parts(**made, settings=plain(cfg))


def _of(kind: type[T], group: str, made: Any) -> T:
    """What a group's settings made, which is what they are for."""
    if not isinstance(made, kind):
        raise UserError(
            f"Expected the settings of {group} to make a {kind.__name__}, by _target_ and what it"
            f" takes, but they make a {type(made).__name__}; {cli.door('conf')} {group} lists those"
            " that do."
        )
    return made


def assemble(parts: Parts, run: RunFolder) -> Training:
    """Give the net its head for these classes, and bring together all that trains it."""
    backbone, data, schedule = parts.backbone, parts.data, parts.schedule
    schedule.check(backbone)
    data.ready()  # a download begins when all else is right
    data.transforms, data.augment = backbone.transforms, parts.augment
    torch.manual_seed(parts.seed)  # the head begins alike however much chance building the net took
    forgetting = Forgetting(backbone, schedule)
    backbone.reset_head(len(data.classes))
    if parts.trainer["channels_last"]:
        backbone.arrange(torch.channels_last)
    if parts.trainer["keep_memory"]:
        memory.keep_memory()

    staged = StagedUnfreezing(schedule)
    history = History(run.path / "history.csv", staged)
    compiled, fuse = parts.trainer["compile"], parts.trainer["fuse"]
    module = Classifier(backbone, data.classes, parts.optimizer, parts.seed, compiled, fuse)
    extractor = Extractor(parts.cache, backbone, data, fuse)
    work = FrozenWork(extractor, schedule, staged)
    saved = Checkpoints(run.checkpoints, staged, history)
    callbacks = [staged, work, history, terminal.Terminal(staged, history), saved]
    trainer = make_trainer(parts.trainer, run, schedule.epochs, callbacks)
    return Training(run, data, module, trainer, staged, history, saved, extractor, work, forgetting)


def begin(training: Training, parts: Parts) -> None:
    """Mark the run as running, and say what will be trained on what."""
    run, data, trainer = training.run, training.data, training.trainer
    device = trainer.strategy.root_device
    facts = report.environment(parts.seed, device) | {"settings": parts.settings}
    run.begin(data.describe_splits(), facts)
    training.extractor.on(trainer)
    if parts.schedule.lr_find:
        found = (training.module, data, parts.schedule, training.work)
        lr_find.use_found_lr(*found, run.path, run.writes)
    if trainer.is_global_zero:
        terminal.show_start(parts.backbone, data, parts.schedule)
        training.forgetting.before(data, device)


def fit(training: Training) -> dict[str, float]:
    """Train through all phases, from the last checkpoint where there is one; what was forgotten."""
    module, data = training.module, training.data
    with training.clock("fit"):
        start = resume_point(training.run.checkpoints, module)
        training.trainer.fit(module, data, ckpt_path=start, weights_only=True)
    return training.forgetting.after()  # at the end: the best epoch may precede the harm


def test(training: Training, forgotten: dict[str, float]) -> Tested:
    """Label the val and the test photos with the best epoch's weights."""
    module, data = training.module, training.data
    with training.clock("test"):
        training.saved.load_best(module)
        # Val again, of the best epoch: what calibrates the model must not be test.
        loaders = [data.val_dataloader(), data.test_dataloader()]
        training.trainer.test(module, loaders, verbose=False)
    val, tested = module.results(0), module.results(1)
    with training.clock("familiar"):
        # The train photos as the net sees them now, which is no longer what it saw in training.
        training.trainer.test(module, [data.seen_again()], verbose=False)
        train = module.results(0)
        photos = [sample.path for sample in data.splits["train"]]
        read = (train["features"], train["label"], val["features"])
        familiar = store.fit(*read, photos, str(data.root))
    return Tested(val, tested, forgotten, familiar)


def leave(
    training: Training, tested: Tested, parts: Parts, choices: Mapping[str, str], figures: bool
) -> None:
    """Write what came out: figures, the model, predictions, metrics."""
    run, data, backbone, test = training.run, training.data, parts.backbone, tested.test
    seconds = training.clock.seconds | {"seconds/features": training.extractor.seconds}
    photos = [sample.path for sample in data.splits["test"]]
    judged = (tested.val, test, data.classes, photos, data.root)
    unfamiliar = on_known(tested.familiar, test["features"])
    found = scores.report(*judged, run.path, figures=figures, unfamiliar=unfamiliar)
    test["logits"] = test["logits"] / found.temperature  # what the model that leaves will say
    metrics = report.metrics(test, backbone, training.history, training.staged, seconds)
    metrics |= tested.forgotten | found.metrics
    metrics["test/unfamiliar"] = unfamiliar.get("share")
    facts = {"metrics": metrics, "data_sha256": data.digest(), "white": data.white}
    facts |= found.bundle
    bundled = (run.path / "model", backbone, data.classes, tested.familiar)
    metrics["model/bytes"] = bundle.save(*bundled, **facts)
    settings = {group: choices[group] for group in ("data", "finetune", "optimizer", "augment")}
    settings |= {"arch": choices["arch"], "seed": parts.seed, "batch_size": data.batch_size}
    report.log_hyperparameters(
        training.trainer, settings | {"lr": parts.schedule.phases[0].lr}, metrics
    )
    run.finish(metrics, report.predictions(test, data, tested.familiar))
    terminal.show_result(metrics, found.struggles, run)
