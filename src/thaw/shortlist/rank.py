"""Which nets are worth fine-tuning on these photos: a linear probe on the features of each.

Train and val photos are used, each predicted by a probe that hasn't seen it; test isn't opened.
"""

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from rich import get_console
from rich.console import Console
from torch import Tensor

from thaw.comparison.verdict import ALPHA, paired_p
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.errors import UserError
from thaw.evaluation.scores import scores
from thaw.files import write_csv
from thaw.intervals import wilson
from thaw.launch import cli, memory, names
from thaw.nets.backbone import Backbone
from thaw.nets.weights import without_loading
from thaw.report.metrics import latency
from thaw.shortlist import figure, table
from thaw.shortlist.probe import USED, fold_of_each, head_inputs, out_of_fold
from thaw.shortlist.words import Net, read
from thaw.training.features import Extractor
from thaw.training.run import RunFolder
from thaw.training.trainer import make_trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Probed:
    """A net's probe: which photos it labels right `[N]`, and metrics as `metrics.json` names them.

    `features_ms` is the time to decode a photo and run the net over it, None where all features
    were in the cache.
    """

    net: Net
    right: np.ndarray
    metrics: dict[str, float]
    features_ms: float | None
    pixels: int
    weights: str | None  # where they come from; None if they are random

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.net.name if self.weights else f"{self.net.name} (random)"


@dataclass(frozen=True)
class Shortlist:
    """Nets, the most accurate first, and the p of each against the first (None for itself).

    p is McNemar's exact test on the out-of-fold predictions, times the number of other nets. Who
    has a small one is taken to be worse. The net that is truly the best goes only where one of the
    others beats it by chance, so it stays with at least 95%, although the same photos chose the
    first (Edwards & Hsu 1983, "Multiple comparisons with the best treatment").
    """

    nets: list[Probed]
    p: list[float | None]
    failed: list[str]

    @property
    def level(self) -> list[Probed]:
        """The first, and those that can't be told apart from it."""
        return [n for n, p in zip(self.nets, self.p, strict=True) if p is None or p >= ALPHA]


def report(words: Sequence[str], out: Path | None = None, csv: str | None = None) -> bool:
    """Probe each net, write `shortlist.csv` and `shortlist.png`, print; False where a net failed.

    Args:
        words: `KEY=VALUE`, see `thaw.shortlist.words.read`.
        out: where files go; by default a new folder in outputs/shortlist.
        csv: another file for the table, or `-` for the screen instead of the table.

    Raises:
        UserError: a word can't be used, or the photos can't.
    """
    wanted = read(words)
    cfg = wanted.nets[0].cfg
    out = out or Path(names.run_dir(f"outputs/shortlist/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    _, cache, data, trainer, *_ = cli.build_all(
        lambda: cli.check_seed(cfg.seed),
        lambda: FeatureCache(**cfg.cache),
        lambda: instantiate(cfg.data, seed=cfg.seed).checked(),
        lambda: make_trainer(cfg.trainer, RunFolder(out), 1, []),
        *(partial(_check, net) for net in wanted.nets),
    )
    if trainer.world_size > 1:
        raise UserError(f"Expected one device, but trainer.devices={cfg.trainer.devices} are more.")
    data.ready()
    if cfg.trainer.keep_memory:
        memory.keep_memory()
    samples = [sample for split in USED for sample in data.splits[split]]
    folds = fold_of_each(samples, data.classes, wanted.folds, cfg.seed, data.root)
    console = Console(stderr=True) if csv == "-" else get_console()
    table.show_start(console, data, len(samples), wanted.folds)
    probed, failed = [], []
    for net in wanted.nets:
        began = time.perf_counter()
        try:
            probed.append(probe(net, cache, data, trainer, folds))
        except Exception as error:
            log.debug("%s", net.name, exc_info=error)
            reason = _sentence(error, net) or f"{type(error).__name__}: {error}"
            table.show_failed(console, net, reason)
            failed.append(net.name)
        else:
            table.show_probed(console, probed[-1], time.perf_counter() - began)
    if probed:
        board = rank(probed, failed)
        rows = table.rows(board)
        write_csv(out / "shortlist.csv", rows)
        if csv == "-":
            print((out / "shortlist.csv").read_text(encoding="utf-8"), end="")
        elif csv is not None:
            write_csv(Path(csv), rows)
        figure.draw(board, out / "shortlist.png")
        table.show(console, board, wanted.shared, out)
    return not failed


def _check(net: Net) -> None:
    """See that a net's settings and files are right, before anything is downloaded or computed."""
    try:
        with without_loading():
            instantiate(net.cfg.arch)
    except Exception as error:
        sentence = _sentence(error, net)
        if sentence is None:
            raise
        raise UserError(f"{net.name}: {sentence}") from error


def _sentence(error: Exception, net: Net) -> str | None:
    """The sentence for a user's mistake, with the word that sets this net's weights here."""
    sentence = cli.user_sentence(error)
    return sentence and re.sub(r"(?<![\w./])arch\.weights", f"archs.{net.name}.weights", sentence)


def rank(probed: Sequence[Probed], failed: Sequence[str] = ()) -> Shortlist:
    """Sort nets by accuracy, equal ones by loss, and compare each with the first."""

    def key(net: Probed) -> tuple[float, float]:
        return -net.metrics["probe/acc"], net.metrics["probe/loss"]

    first, *others = sorted(probed, key=key)
    values = [paired_p(first.right.astype(int) - other.right) for other in others]
    p = [min(1.0, len(others) * value) for value in values]
    return Shortlist([first, *others], [None, *p], list(failed))


def probe(
    net: Net, cache: FeatureCache, data: PhotoFolder, trainer: Trainer, folds: Tensor
) -> Probed:
    """Build a net, judge its features of all train and val photos, and measure what it costs.

    Raises:
        UserError: the net can't be built, or its features aren't finite.
    """
    torch.manual_seed(net.cfg.seed)  # of a net with random weights
    backbone: Backbone = instantiate(net.cfg.arch)
    backbone.reset_head(len(data.classes))
    if net.cfg.trainer.channels_last:  # as in training, which finds the same features
        backbone.arrange(torch.channels_last)
    backbone.thaw(["head"])
    extractor = Extractor(cache, backbone, data, net.cfg.trainer.fuse)
    extractor.on(trainer)
    features, milliseconds = head_inputs(extractor)
    if not features.isfinite().all():
        raise UserError(f"The features of {net.name} aren't finite numbers.")
    labels = torch.tensor([sample.label for split in USED for sample in data.splits[split]])
    logits = out_of_fold(features, labels, folds)
    right = logits.argmax(dim=1) == labels
    low, high = wilson(int(right.sum()), len(labels))
    metrics = {f"probe/{key}": value for key, value in scores(logits, labels).items()}
    metrics |= {
        "probe/acc_low": low,
        "probe/acc_high": high,
        "model/latency_ms": latency(backbone),
        "params/total": sum(p.numel() for p in backbone.net.parameters()),
        "model/bytes": sum(t.nbytes for t in backbone.net.state_dict().values()),
    }
    weights = str(backbone.meta["source"]) if backbone.pretrained else None
    return Probed(net, right.numpy(), metrics, milliseconds, backbone.input_size, weights)
