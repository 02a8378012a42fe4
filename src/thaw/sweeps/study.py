"""An Optuna study that can be gone on with, and its figure: `thaw train experiment=search`.

Hydra imports this file when a sweep begins, so Optuna and matplotlib are not imported with it.
"""

import logging
import math
import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from thaw.escape import printable
from thaw.launch import names
from thaw.launch.cli import Refused
from thaw.page.figure import write_figure
from thaw.screen import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

NAME = "study.png"
BLUE, RED, GREY = "#1f5a8a", "#c8553d", "0.45"
ASIDE = (
    "Above, the order of the trials; below, the same trials by what was chosen. Ringed: the best."
)


class Study(Callback):
    """Makes `hydra/sweeper=optuna` go on with its study where the last call of it ended.

    By itself the sweeper does `n_trials` more each time, draws the same ones from the same seed,
    and never asks whether the study was begun on other photos.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Count the trials that are done as done.

        Raises:
            Refused: the study was begun with other settings.
        """
        sweeper = config.hydra.sweeper
        if sweeper.storage is None:  # kept in memory only
            return
        # Of the Optuna that the sweeper needs, to its authors.
        os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # SQLite makes none
        study = _load(config)
        _check_unchanged(study, _settings(config))
        if sweeper.storage.startswith("sqlite"):  # another database may serve other machines
            _take_up_again(study)
        with read_write(config.hydra), open_dict(config.hydra):
            sweeper.n_trials = max(0, sweeper.n_trials - len(_done(study)))
            if OmegaConf.select(sweeper, "sampler.seed") is not None:
                sweeper.sampler.seed += len(study.trials)  # or it would draw the first ones again

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Draw `study.png` into the sweep's folder, and say which trial is the best by val loss."""
        if config.hydra.sweeper.storage is None:
            return
        trials = [Trial.of(trial) for trial in _done(_load(config))]
        if any(math.isfinite(trial.loss) for trial in trials):
            path = Path(config.hydra.sweep.dir) / NAME
            draw(trials, path)
            best = min(trials, key=lambda trial: trial.loss)
            say("", f"The best of {len(trials)} trials is number {best.number}: {best.words}")
            say("", f"{'figure':<14} {path}")


@dataclass(frozen=True)
class Trial:
    """A finished trial: val loss, infinite where its job failed, and what was chosen."""

    number: int
    loss: float
    chosen: dict[str, Any]
    log: frozenset[str]  # keys that were searched on a logarithmic scale

    @property
    def words(self) -> str:
        """What was chosen, as `thaw train` takes it."""
        return " ".join(f"{key}={value}" for key, value in self.chosen.items())

    @classmethod
    def of(cls, trial: "FrozenTrial") -> "Trial":
        """Of Optuna's."""
        log = (key for key, kind in trial.distributions.items() if getattr(kind, "log", False))
        logarithmic = frozenset(log) | {
            key for key, kind in trial.distributions.items() if "Log" in type(kind).__name__
        }
        assert trial.value is not None
        return cls(trial.number, trial.value, trial.params, logarithmic)


def _load(config: DictConfig) -> "OptunaStudy":
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    sweeper = config.hydra.sweeper
    try:
        return optuna.create_study(
            study_name=sweeper.study_name,
            storage=sweeper.storage,
            direction="minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of whatever database it is
        reason = printable(" ".join(str(error).split())[:200])
        raise Refused(f"The study in {sweeper.storage} can't be gone on with: {reason}.") from error


def _done(study: "OptunaStudy") -> list["FrozenTrial"]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _take_up_again(study: "OptunaStudy") -> None:
    """Let a trial whose process was killed be the next one: its job goes on in the same folder."""
    from optuna.trial import TrialState

    with warnings.catch_warnings(action="ignore"):  # "experimental", in the Optuna of that time
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def _settings(config: DictConfig) -> dict[str, Any]:
    """What makes a study's values comparable: all that isn't searched, and what is."""
    task = [str(override) for override in config.hydra.overrides.task]
    space = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create())
    assert isinstance(space, dict)
    given = dict(override.split("=", 1) for override in task if "=" in override)
    space |= {key: given[key] for key in names.varying(task)}
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    asides = ("hydra", "cache", "debug", "resume", "resume_with_changes")
    settings = {str(key): value for key, value in plain.items() if key not in asides}
    return settings | {"hydra.sweeper.params": space}


def _check_unchanged(study: "OptunaStudy", now: dict[str, Any]) -> None:
    from thaw.runs import shipped
    from thaw.runs.folder import differences

    before = shipped.moved(dict(study.user_attrs))
    if not before:
        for key, value in now.items():  # each by itself: a database's rows are short
            study.set_user_attr(key, value)
        return
    changed = differences(before, now)
    if changed:
        raise Refused(
            f"The study {study.study_name!r} was begun with other settings: {'; '.join(changed)}."
            " Call it without them, or begin another: hydra.sweep.dir=outputs/sweeps/NAME."
        )


def draw(trials: Sequence[Trial], path: Path) -> None:
    """Above, val loss by trial; below, val loss by what was chosen, a panel a key."""
    from matplotlib.figure import Figure

    from thaw.comparison.figures import title

    best = min(trials, key=lambda trial: trial.loss)
    keys = list(dict.fromkeys(key for trial in trials for key in trial.chosen))
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(11, 3.2 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.2] + [1] * rows)
    above = figure.add_subplot(grid[0, :])
    _draw_history(above, trials, best)
    for i, key in enumerate(keys):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns], sharey=above)
        _draw_choices(axes, key, [trial for trial in trials if key in trial.chosen], best)
        if i % columns == 0:
            axes.set_ylabel("val loss")
        else:
            axes.tick_params(labelleft=False)
    words = [str(value) for value in best.chosen.values() if isinstance(value, str)]
    wins = f"number {best.number} wins" + (f" with {', '.join(words)}" if words else "")
    title(figure, f"Of {len(trials)} trials, {wins}: val loss {best.loss:.3f}", ASIDE)
    write_figure(path, figure)


def _draw_history(axes: "Axes", trials: Sequence[Trial], best: Trial) -> None:
    from matplotlib.ticker import MaxNLocator

    ran = [trial for trial in trials if math.isfinite(trial.loss)]
    failed = [trial.number for trial in trials if not math.isfinite(trial.loss)]
    axes.plot([t.number for t in ran], [t.loss for t in ran], "o", color=BLUE, alpha=0.8)
    lowest = [min(t.loss for t in ran[: i + 1]) for i in range(len(ran))]
    axes.step([t.number for t in ran], lowest, where="post", color=GREY, label="best so far")
    _ring(axes, best.number, best)
    if failed:
        top = axes.get_xaxis_transform()
        axes.plot(failed, [0.97] * len(failed), "x", color=RED, transform=top, label="failed")
    axes.set_xlabel("trial")
    axes.set_ylabel("val loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_choices(axes: "Axes", key: str, trials: Sequence[Trial], best: Trial) -> None:
    ran = [trial for trial in trials if math.isfinite(trial.loss)]
    values = [trial.chosen[key] for trial in ran]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places = dict(zip(values, values, strict=True))
        if key in trials[0].log:
            axes.set_xscale("log")
    else:
        places = {value: i for i, value in enumerate(sorted(set(values), key=str))}
        labels = [textwrap.fill(str(value).replace("_", "_ "), 13) for value in places]
        axes.set_xticks(list(places.values()), [label.replace("_ ", "_") for label in labels])
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.plot([places[v] for v in values], [t.loss for t in ran], "o", color=BLUE, alpha=0.6)
    if key in best.chosen:
        _ring(axes, places[best.chosen[key]], best)
    axes.set_xlabel(key)
    axes.spines[["top", "right"]].set_visible(False)


def _ring(axes: "Axes", place: float, best: Trial) -> None:
    axes.plot(place, best.loss, "o", color=RED, markersize=11, fillstyle="none", markeredgewidth=2)
