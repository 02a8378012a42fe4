"""Runs that are the same but for the seed, and what tells them from others."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thaw.intervals import wilson
from thaw.runs.finished import Run

GROUPS = ("arch", "data", "augment", "optimizer", "finetune", "trainer", "loss", "callbacks")
GROUPED = "test/groups"


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed only. `settings` are what tells it from the others, shortly."""

    name: str
    arch: str
    finetune: str
    settings: dict[str, str]
    runs: list[Run]

    def mean(self, key: str) -> float:
        """Of a metric over the seeds; nan where a run lacks it."""
        return statistics.fmean(self._values(key))

    def sd(self, key: str) -> float | None:
        """Standard deviation of a metric over the seeds; None for one seed."""
        values = self._values(key)
        if any(map(math.isnan, values)):
            return math.nan
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, key: str) -> list[float]:
        return [float(run.metrics.get(key, math.nan)) for run in self.runs]

    @property
    def photos(self) -> int:
        """Test photos of one run."""
        return min(len(run.right) for run in self.runs)

    @property
    def groups(self) -> int | None:
        """Groups that the test photos of one run come in; None where each stands alone."""
        counts = [run.metrics[GROUPED] for run in self.runs if GROUPED in run.metrics]
        return min(counts, default=None)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the test accuracy, averaged over the seeds, for other such photos.

        Wilson's for as many photos as one run was tested on. Three models' answers to a photo are
        no three photos: what is hard for one is hard for the next, so counting each answer would
        make the interval too narrow by up to the square root of 3. What another seed changes is
        not in it either; that is the standard deviation over seeds.

        Where photos come in groups, the runs' own intervals are made by drawing groups, and this is
        the mean of their lower and of their upper ends. It is rather too wide than too narrow: an
        average varies at most as much as what is averaged does on average.
        """
        if self.groups:
            return self.mean("test/acc_low"), self.mean("test/acc_high")
        return wilson(self.mean("test/acc") * self.photos, self.photos)


def group(runs: Sequence[Run]) -> tuple[list[Configuration], list[str]]:
    """Runs by configuration, each seed once; and a sentence for each run that is left out."""
    groups: dict[str, dict[int, Run]] = {}
    notes = []
    for run in sorted(runs, key=lambda run: run.updated):
        same = groups.setdefault(repr(sorted(run.settings.items())), {})
        if run.seed in same:
            notes.append(f"{same[run.seed].path} is left out: {run.path} did the same again.")
        same[run.seed] = run
    firsts = [next(iter(same.values())) for same in groups.values()]
    configurations: list[Configuration] = []
    for run, settings, same in zip(firsts, _differences(firsts), groups.values(), strict=True):
        words = [v if k in GROUPS else f"{k}={v}" for k, v in settings.items() if v]
        name = " ".join(words) or f"{run.choices['arch']} {run.choices['finetune']}"
        alike = sum(other.name.split(" #")[0] == name for other in configurations)
        configurations.append(
            Configuration(
                name=f"{name} #{alike + 1}" if alike else name,
                arch=run.choices["arch"],
                finetune=run.choices["finetune"],
                settings=settings,
                runs=[same[seed] for seed in sorted(same)],
            )
        )
    return configurations, notes


def _differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """What tells each run from the others: chosen files by group, and other settings by key.

    A key that differs only because another file was chosen is not named.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    varying = [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]
    chosen = [
        name
        for name in GROUPS
        if any(key.split(".")[0] == name for key in varying)
        and len({run.choices.get(name) for run in runs}) > 1
    ]
    unexplained = []
    for key in varying:
        values: dict[str | None, set[str]] = {}
        for run in runs:
            choice = run.choices.get(key.split(".")[0])
            values.setdefault(choice, set()).add(repr(run.settings.get(key)))
        if any(len(different) > 1 for different in values.values()):
            unexplained.append(key)
    short = _shortest(unexplained)
    return [
        {name: run.choices[name] for name in chosen}
        | {short[key]: _word(run.settings.get(key, "")) for key in unexplained}
        for run in runs
    ]


def _shortest(keys: Sequence[str]) -> dict[str, str]:
    """As few last parts of each dotted key as tell it from the others."""
    short = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[i:]) for i in reversed(range(len(parts)))]
        alone = (t for t in tails if sum(f".{other}".endswith(f".{t}") for other in keys) == 1)
        short[key] = next(alone, key)
    return short


def _word(value: Any) -> str:
    """A setting's value, short.

    >>> _word(0.0003), _word(0.5), _word("data/flowers"), _word(None), _word([0.9, 0.999])
    ('3e-4', '0.5', 'flowers', 'null', '[0.9,0.999]')
    """
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        digits, power = f"{value:.5e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value).rstrip("/").rsplit("/", 1)[-1]
