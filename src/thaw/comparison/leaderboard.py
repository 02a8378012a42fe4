"""Runs side by side: one table, who won, and whether that is more than noise.

Nothing here imports torch: a sweep ends with it, and `thaw compare` answers at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.comparison.configurations import Configuration, group
from thaw.comparison.pairs import check_same_photos, every_two
from thaw.comparison.verdict import ALPHA, Pair, in_groups, listed
from thaw.runs.finished import Unfinished, find

# `thaw.training.unfreezing.MONITOR`, which picks the epoch within a run; it needs torch
MONITOR = "val/loss"
MOST_PAIRS = 3  # a sentence on every pair up to so many, then on the winner's only
MOST_SENTENCES = 6  # and from here on one sentence for all that are alike


@dataclass(frozen=True)
class Leaderboard:
    """Configurations, the best on val first, and every two of them on the same test photos."""

    configurations: list[Configuration]
    pairs: list[Pair]
    unfinished: list[Unfinished]
    notes: list[str]

    @property
    def winner(self) -> Configuration:
        """Lowest loss on val, averaged over the seeds.

        Val chooses, because test could not be reported any more if it did. Loss comes before
        accuracy, because each run picks its epoch by it, so that one rule holds from the epoch to
        the sweep; and because it still differs where a few dozen val photos leave accuracies equal.
        """
        return self.configurations[0]

    @property
    def sentences(self) -> list[str]:
        """The verdict: who won on val, what test says of it, and of the differences."""
        winner, others = self.winner, self.configurations[1:]
        low, high = winner.interval
        seeds = f", mean of {len(winner.runs)} seeds" if len(winner.runs) > 1 else ""
        said = [
            f"{'The winner on val is ' if others else ''}{winner.name}"
            f" (val loss {winner.mean(MONITOR):.3f}, accuracy {winner.mean('val/acc'):.1%}{seeds}):"
            f" {winner.mean('test/acc'):.1%} of {winner.photos} test photos"
            f"{in_groups(winner.groups)}"
            f" (95% interval {low:.1%} to {high:.1%})."
        ]
        if not others:
            return [*said, "There is one configuration, and nothing to compare it with."]
        level = [other.name for other in others if _rank(other)[:2] == _rank(winner)[:2]]
        if level:
            said.append(f"On val it is level with {listed(level)}.")
        by_acc = max(self.configurations, key=lambda c: c.mean("val/acc"))
        if by_acc.mean("val/acc") > winner.mean("val/acc"):
            said.append(
                f"Val chose by its loss, as each run chooses its epoch; by val accuracy it would"
                f" be {by_acc.name} ({by_acc.mean('val/acc'):.1%} against"
                f" {winner.mean('val/acc'):.1%})."
            )
        by_test = max(self.configurations, key=lambda c: c.mean("test/acc"))
        if by_test.mean("test/acc") > winner.mean("test/acc"):
            said.append(
                f"On test {by_test.name} is ahead ({by_test.mean('test/acc'):.1%}), but test"
                " doesn't choose: a score that was chosen for being high is too high."
            )
        pairs = self.pairs
        if len(pairs) > MOST_PAIRS:
            pairs = [pair for pair in pairs if winner.name in (pair.a, pair.b)]
        if len(pairs) > MOST_SENTENCES:
            return said + _together(winner.name, pairs)
        return said + [f"{pair.sentence}." for pair in pairs]

    @property
    def caveat(self) -> str:
        """What the p-values don't cover."""
        grouped = any(pair.groups for pair in self.pairs)
        groups = " Photos come in groups, and for p each group counts as one." if grouped else ""
        if any(len(c.runs) == 1 for c in self.configurations):
            return (
                "Where there is one seed, a small difference may turn round with the next one."
                + groups
            )
        return (
            "p is for these trained models on other such photos; ± is what another seed changes."
            + groups
        )


def _together(winner: str, pairs: Sequence[Pair]) -> list[str]:
    """The winner's pairs in a few sentences; `pairs` all begin with it."""
    photos = f"on the same {pairs[0].tested_on} (p < {ALPHA}, Holm)"
    apart = [pair for pair in pairs if pair.told_apart]
    beaten = [pair.b for pair in apart if pair.lead > 0]
    beating = [pair.b for pair in apart if pair.lead < 0]
    rest = [pair.b for pair in pairs if not pair.told_apart]
    said = []
    if beaten:
        said.append(f"{winner} beats {listed(beaten)} {photos}.")
    if beating:
        verb = "beats" if len(beating) == 1 else "beat"
        said.append(f"{listed(beating)} {verb} {winner} {photos}.")
    if rest:
        said.append(f"{winner} can't be told apart from {listed(rest)} on {pairs[0].tested_on}.")
    return said


def compare(paths: Sequence[Path]) -> Leaderboard:
    """The leaderboard of all finished runs in these folders.

    Raises:
        UserError: no finished run is there, or they were tested on different photos.
    """
    runs, unfinished = find(paths)
    check_same_photos(runs)
    configurations, notes = group(runs)
    configurations.sort(key=_rank)
    pairs = every_two(configurations)
    return Leaderboard(configurations, pairs, unfinished, notes + _cautions(configurations))


def _rank(configuration: Configuration) -> tuple[Any, ...]:
    mean, loss = configuration.mean, configuration.mean(MONITOR)
    loss = math.inf if math.isnan(loss) else loss  # a run that diverged
    return loss, -mean("val/acc"), mean("params/total"), configuration.name


def _cautions(configurations: Sequence[Configuration]) -> list[str]:
    """What makes columns less comparable than they look."""
    said = []
    vals = {frozenset((run.seed, run.val) for run in c.runs) for c in configurations}
    if len(vals) > 1 and len({run.val for c in configurations for run in c.runs}) > 1:
        said.append(
            "Not all were chosen on the same val photos (other seeds, or other splits), so their"
            " val losses compare only roughly."
        )
    devices = sorted({run.device for c in configurations for run in c.runs})
    if len(devices) > 1:
        said.append(f"Seconds and latency are of different machines: {'; '.join(devices)}.")
    return said
