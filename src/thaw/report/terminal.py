"""What a run shows in the terminal: stages, progress, a line an epoch, and the result."""

import io
import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from thaw.data.dataset import mean_cut_away
from thaw.data.folder import PhotoFolder
from thaw.escape import printable
from thaw.launch.cli import door
from thaw.nets.backbone import Backbone
from thaw.runs.folder import RunFolder
from thaw.screen import Steps, command
from thaw.training.history import History
from thaw.training.schedule import Phase, Schedule, stage_rates
from thaw.training.unfreezing import StagedUnfreezing

log = logging.getLogger(__name__)
UNEVEN = 5  # times as many photos of one class as of another, from which on it is said


def show(what: RenderableType) -> None:
    """Log a table: the terminal shows it in its colours, `train.log` gets it as plain text."""
    plain = Console(file=io.StringIO(), width=120, force_jupyter=False)
    plain.print(what)
    assert isinstance(plain.file, io.StringIO)
    text = "\n" + plain.file.getvalue().rstrip()
    log.info("%s", text, extra={"renderable": what})


def stage_table(backbone: Backbone, schedule: Schedule) -> Table:
    """Stages with their parameters and their learning rate in each phase."""
    table = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("parameters", justify="right")
    for phase in schedule.phases:
        epochs = schedule.length(phase)
        length = f"{epochs} epochs" if epochs > 1 else "1 epoch"
        length = "solved" if phase.solve else length
        until = "\nor converged" if phase.until and not schedule.lengths else ""
        name = Text(f"{printable(phase.name)}\n{length}{until}")
        table.add_column(name, justify="right")
    rates = stage_rates(schedule, backbone)
    for stage in backbone.stages:
        cells = [f"{lr:.3g}" if lr else "[dim]frozen[/dim]" for lr in rates[stage]]
        if stage == "head":
            solved = [phase.solve for phase in schedule.phases]
            cells = ["solved" if s else c for s, c in zip(solved, cells, strict=True)]
        table.add_row(stage, f"{backbone.num_parameters(stage):,}", *cells)
    return table


def phase_line(phase: Phase, schedule: Schedule, backbone: Backbone) -> str:
    """What trains in a phase, in words."""
    trained, norms = schedule.trained(phase, backbone)
    parameters = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    if len(trained) == len(backbone.stages):
        what = "the whole net trains"
    elif norms:
        what = f"{', '.join(trained)} and all norm layers train"
    else:
        what = f"{', '.join(trained)} train" + ("s" if len(trained) == 1 else "")
    what = "the head is solved" if phase.solve else what
    return f"phase {phase.name}: {what}, {parameters:,} parameters"


class Terminal(Callback):
    """Progress, a line an epoch, and a line when something thaws."""

    def __init__(self, staged: StagedUnfreezing, history: History) -> None:
        self.staged, self.history = staged, history
        self.progress: Steps | None = None
        self.shown: str | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Announce a phase that begins, and show how far the epoch is."""
        backbone = pl_module.backbone
        assert isinstance(backbone, Backbone)
        if not trainer.is_global_zero:
            return
        phase = self.staged.phase
        if self.shown != phase.name:
            log.info(phase_line(phase, self.staged.schedule, backbone))
            log.info(EPOCH_HEAD)
            self.shown = phase.name
        last = trainer.max_epochs or 0
        self._start(f"epoch {trainer.current_epoch + 1}/{last}", int(trainer.num_training_batches))

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """One step further."""
        self._advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        self._stop()
        if not trainer.is_global_zero or not self.history.seen:
            return
        best = self.history.best["epoch"] if self.history.val else None
        log.info(epoch_line(self.history.rows[-1], trainer.max_epochs or 0, best))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show how far the test is."""
        self._start("test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """One step further."""
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the bar."""
        self._stop()

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Clear the bar."""
        self._stop()

    def _start(self, what: str, steps: int) -> None:
        self._stop()
        self.progress = Steps(what, steps, "batches").__enter__()

    def _advance(self) -> None:
        if self.progress is not None:
            self.progress.advance()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.__exit__()
            self.progress = None


COLUMNS = ("train loss", "accuracy", "val loss", "accuracy", "seconds")
EPOCH_HEAD = " " * 13 + "  ".join(f"{name:>10}" for name in COLUMNS)


def epoch_line(row: Mapping[str, Any], epochs: int, best: int | None) -> str:
    """A row of the history, below `EPOCH_HEAD`; `best` is the best epoch so far."""
    forms = {"train/loss": ".4f", "train/acc": ".1%", "val/loss": ".4f", "val/acc": ".1%"}
    forms |= {"seconds": ".1f"}
    cells = [format(row[key], form) if key in row else "no val" for key, form in forms.items()]
    mark = "  best" if row["epoch"] == best else ""
    numbers = "  ".join(f"{cell:>10}" for cell in cells)
    return f"epoch {row['epoch']:2d}/{epochs}".ljust(13) + numbers + mark


def show_start(backbone: Backbone, data: PhotoFolder, schedule: Schedule) -> None:
    """Say what will be trained on what, before anything slow."""
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in data.splits.items())
    source = backbone.meta.get("source") or "random weights"
    log.info("net     %s, %s", backbone.origin["name"], source)
    log.info("photos  %s: %d classes, %s", data.root, len(data.classes), counts)
    for split, how in data.cut.items():
        log.info("        %s is cut from them: %s", split, how)
    log.info("        %s", fit_line(backbone, data))
    if told := balance_line(data):
        log.info("        %s", told)
    if not backbone.pretrained:
        log.info(
            "        there are no pretrained weights to keep: every phase trains the whole net"
        )
    show(stage_table(backbone, schedule))


def fit_line(backbone: Backbone, data: PhotoFolder) -> str:
    """How photos are made to fit what the net sees, and what is lost by it."""
    side = f"the net sees {backbone.input_size} × {backbone.input_size} pixels"
    if data.fit != "crop":
        how = "squashed" if data.fit == "squash" else "padded with black"
        return f"{side}: whole photos, {how} (data.fit={data.fit})"
    photos = [os.path.join(data.root, sample.path) for sample in data.splits["train"]]
    lost = mean_cut_away(backbone.transforms, photos)
    return f"{side}: {lost:.0%} of the photos' area is cut away (data.fit=crop)"


def balance_line(data: PhotoFolder) -> str | None:
    """How uneven the classes are, and what is done about it; None where neither is worth a word."""
    counts = Counter(sample.label for sample in data.splits["train"])
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    uneven = f"{many} train photos of {data.classes[most]}, {few} of {data.classes[least]}"
    if data.balance == "sampler":
        return f"{uneven}: each class is drawn as often as the others (data.balance=sampler)"
    if data.balance == "loss":
        return f"{uneven}: each class weighs as much as the others (data.balance=loss)"
    if many < UNEVEN * few:
        return None
    return (
        f"{uneven}, {many / few:.0f} to 1: accuracy says little of the rare ones, balanced accuracy"
        " does; data.balance=sampler or data.balance=loss makes each class count alike"
    )


def scored(metrics: dict[str, Any], struggles: str) -> dict[str, str]:
    """How good it is: the lines by which a result begins."""
    interval = f"95% interval {metrics['test/acc_low']:.1%} to {metrics['test/acc_high']:.1%}"
    photos = f"{metrics['test/images']} photos"
    if "test/groups" in metrics:
        photos += f", drawn by their {metrics['test/groups']} groups"
    return {
        "test accuracy": f"{metrics['test/acc']:.1%}  ({interval}, {photos})",
        "balanced": f"{metrics['test/balanced_acc']:.1%}  (95% interval"
        f" {metrics['test/balanced_acc_low']:.1%} to {metrics['test/balanced_acc_high']:.1%}; each"
        " class counts alike)",
        "macro F1": f"{metrics['test/f1']:.1%}",
        "worst class": f"{metrics['test/worst_recall']:.1%} of {metrics['test/worst_class']}  (95%"
        f" interval {metrics['test/worst_recall_low']:.1%} to"
        f" {metrics['test/worst_recall_high']:.1%}, of whichever class is truly the worst)",
        "mistakes": struggles,
    }


def show_result(metrics: dict[str, Any], struggles: str, run: RunFolder) -> None:
    """The last block: what came out, and what to type next."""
    off = f"{metrics['test/ece']:.1%} off on average"
    told = "left as it was: val shows no clear error"
    if metrics["temperature"] != 1:
        told = f"after calibration on val (temperature {metrics['temperature']:.2f})"
    rows = scored(metrics, struggles) | {
        "confidence": f"{off}, {told}",
        "val accuracy": f"{metrics['val/acc']:.1%}  (epoch {metrics['best/epoch']}, lowest loss)",
        "time": f"{metrics['seconds/fit']:.1f} s training, {metrics['seconds/test']:.1f} s test;"
        f" {latency_words(metrics)}",
        "size": f"{metrics['model/bytes'] / 1e6:.1f} MB",
    }
    if "test/ece_uncorrected" in metrics:
        rows["confidence"] += (
            f"; {metrics['test/ece_uncorrected']:.1%} without the correction for how often each"
            " class really comes"
        )
    show_rows(rows, metrics, run)
    log.info("next\n%s", command(door("predict"), f"{run} PHOTO"))
    if (run.path / "tensorboard").is_dir():
        log.info("  tensorboard --logdir outputs")


def show_rows(rows: dict[str, str], metrics: dict[str, Any], run: RunFolder) -> None:
    """Print a result's lines, after what is worse than any of them, and where all of it is."""
    if not metrics["frozen/unchanged"]:
        rows = {"frozen stages": "CHANGED, which they never should: see the errors above"} | rows
    log.info("")
    for name, value in rows.items():
        log.info("%-14s %s", name, value)
    log.info("")
    log.info("all of it is in\n  %s", run)


def latency_words(metrics: Mapping[str, Any]) -> str:
    """What one photo takes, no more exact than it was measured."""
    milliseconds = float(f"{metrics['model/latency_ms']:.2g}")
    busy = "; the machine was busy" if metrics.get("model/latency_busy") else ""
    return f"about {milliseconds:g} ms a photo (one thread{busy})"
