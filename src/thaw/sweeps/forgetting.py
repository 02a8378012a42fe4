"""What a thaw did to each run of a sweep, in one figure: `thaw train experiment=lr_too_high`.

Hydra imports this file when a sweep begins, so torch and matplotlib are not imported with it.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from thaw.errors import UserError
from thaw.page.figure import write_figure
from thaw.runs import read
from thaw.screen import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "forgetting.png"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito 2008


class ForgettingFigure(Callback):
    """Draws `forgetting.png` into the sweep's folder, and prints a sentence a run."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read what the jobs left; those that measured no forgetting are passed over."""
        folder = Path(config.hydra.sweep.dir)
        runs = find(folder)
        if not runs:
            return
        draw(runs, folder / NAME)
        say("", *(run.sentence() for run in runs))
        say("", f"{'figure':<14} {folder / NAME}")


@dataclass(frozen=True)
class ThawedRun:
    """A finished run whose last phase thawed the backbone."""

    name: str  # what tells it from the others: the rate, and settings that differ
    rate: float  # of the last phase
    about: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]

    def curve(self, key: str) -> list[float]:
        """A column of `history.csv`."""
        return [row[key] for row in self.history]

    @property
    def frozen_epochs(self) -> int:
        """Epochs before the last phase."""
        return sum(row["phase"] != self.history[-1]["phase"] for row in self.history)

    @property
    def tested(self) -> str:
        """Which epoch the test accuracy is of."""
        best = self.metrics["best/epoch"]
        return f"epoch {best}" + (", before the thaw" if best <= self.frozen_epochs else "")

    def sentence(self) -> str:
        """What happened, for the terminal."""
        metrics, val = self.metrics, self.curve("val/acc")
        before = f"from {val[self.frozen_epochs - 1]:.1%} " if self.frozen_epochs else ""
        return (
            f"at {self.name}: val accuracy went {before}to {val[-1]:.1%},"
            f" {metrics['drift/imagenet']:.1%} of ImageNet's answers changed, features moved by"
            f" {metrics['drift/features']:.2g}; test {metrics['test/acc']:.1%} ({self.tested})"
        )


def find(folder: Path) -> list[ThawedRun]:
    """The runs of a sweep that tell of forgetting, the lowest rate first."""
    given: dict[Path, list[str]] = {}
    for path in sorted(folder.glob("*/metrics.json")):
        with suppress(UserError):  # the comparison says which are damaged
            given[path.parent] = read.overrides(path.parent)
    runs = []
    for path, overrides in given.items():
        with suppress(UserError):
            runs += _thawed(path, overrides, list(given.values()))
    return sorted(runs, key=lambda run: run.rate)


def _thawed(path: Path, overrides: list[str], every: list[list[str]]) -> list[ThawedRun]:
    """The run, if it measured forgetting."""
    metrics, history, cfg = read.metrics(path), read.history(path), read.config(path)
    phases = cfg.get("finetune", {}).get("phases")
    needed = {"drift/imagenet", "drift/features", "drift/images", "best/epoch", "test/images"}
    needed |= {"test/acc_low", "test/acc_high"}
    if any(key not in metrics for key in needed) or not isinstance(phases, dict) or not phases:
        return []
    phase, settings = list(phases.items())[-1]
    rate = settings.get("lr") if isinstance(settings, dict) else None
    if not isinstance(rate, int | float) or metrics["best/epoch"] > len(history):
        return []
    own = [
        override
        for override in overrides
        if not all(override in others for others in every)
        and not override.startswith(f"finetune.phases.{phase}.lr=")
    ]
    name = ", ".join([f"{rate:g}", *own])
    arch, root = cfg["arch"], cfg.get("data", {}).get("root")
    about = f"{arch.get('name') or arch.get('_target_')} on {Path(str(root)).name}"
    return [ThawedRun(name, rate, about, metrics, history)]


def draw(runs: list[ThawedRun], path: Path) -> None:
    """Left, val by epoch, with the thaw marked; right, what each run ended with."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 6))
    lower = figure.add_subplot(grid[1, 0])
    upper = figure.add_subplot(grid[0, 0], sharex=lower)
    axes = figure.add_subplot(grid[:, 1])
    _draw_curves(upper, runs, "val/acc")
    _draw_curves(lower, runs, "val/loss")
    upper.set_title("val accuracy (shaded: thawed; ring: best epoch)", fontsize=10)
    upper.tick_params(labelbottom=False)
    upper.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    lower.set_title("val loss", fontsize=10)
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_bars(axes, runs)
    axes.legend(
        title="learning rate of the thawed net",
        ncols=min(len(runs), 4),
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
    figure.suptitle(f"What the thaw did: {runs[0].about}")
    write_figure(path, figure)


def _draw_curves(axes: "Axes", runs: list[ThawedRun], key: str) -> None:
    for i, run in enumerate(runs):
        values, best = run.curve(key), run.metrics["best/epoch"]
        colour = COLOURS[i % len(COLOURS)]
        thick = 2 + 2 * (len(runs) - 1 - i)  # curves are the same until the thaw: let all be seen
        axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=thick)
        ring = {"markersize": 8 + thick, "fillstyle": "none", "clip_on": False}
        axes.plot(best, values[best - 1], "o", color=colour, **ring)
    edge = runs[0].frozen_epochs + 0.5
    axes.axvspan(edge, len(runs[0].history) + 0.5, color="0.92", zorder=0)
    axes.set_xlim(0.5, len(runs[0].history) + 0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_bars(axes: "Axes", runs: list[ThawedRun]) -> None:
    first = runs[0].metrics
    groups = (
        f"ImageNet answers\nchanged\n({first['drift/images']} val photos)",
        "features moved\n(1 - cosine)",
        "val accuracy\nof the last epoch",
        f"test accuracy\nof the best epoch\n({first['test/images']} photos)",
    )
    width = 0.8 / len(runs)
    for i, run in enumerate(runs):
        metrics = run.metrics
        test, low, high = (metrics[f"test/{key}"] for key in ("acc", "acc_low", "acc_high"))
        drifts = [metrics["drift/imagenet"], metrics["drift/features"]]
        heights = [*drifts, run.curve("val/acc")[-1], test]
        texts = [f"{height:.1%}" for height in heights]
        texts[1] = f"{heights[1]:.2g}"
        places = [group + (i - (len(runs) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, heights, 0.95 * width, color=COLOURS[i % len(COLOURS)], label=run.name)
        reach = [[test - low], [high - test]]
        axes.errorbar(places[3:], [test], reach, fmt="none", ecolor="black", capsize=4)
        for place, top, text in zip(places, [*heights[:3], high], texts, strict=True):
            axes.annotate(text, (place, top), (0, 3), textcoords="offset points", ha="center")
        note = {"color": "white", "rotation": 90, "ha": "center", "va": "bottom", "fontsize": 9}
        axes.annotate(run.tested, (places[3], 0.02), **note)
    axes.axvline(2.5, color="0.7", linewidth=1, linestyle=":")
    axes.text(2.46, 1.1, "at the end of training", ha="right", fontsize=9, color="0.4")
    axes.text(2.54, 1.1, "what is kept", ha="left", fontsize=9, color="0.4")
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.15)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.spines[["top", "right"]].set_visible(False)
