"""Multinomial logistic regression with L2 on features, solved to its optimum by L-BFGS.

Features are turned to their principal directions first. There the loss curves about as much as the
features vary (Böhning 1992), which is divided out, so that tens of steps are enough. With more
features than photos there are no more directions than photos: the best weights lie in their span.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = tuple(10 ** (0.5 - i / 2) for i in range(9))  # of L2, from the stiffest on
FLAT = 1e-7  # a direction with less than this share of the liveliest's square is noise
STEPS, HISTORY = 100, 10  # of L-BFGS, at most
ROUGH = 1e-5  # change of the mean loss at which a layer is solved well enough to choose by
WORSE = 1.02  # times the lowest loss, from which on laxer penalties aren't tried


@dataclass(frozen=True)
class Linear:
    """A layer: weight `[D, classes]` and bias `[classes]`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of `[N, D]`."""
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class Space:
    """Where a head is solved: features centred, turned, and scaled so that rows are about 1 long.

    One scale for all: a penalty means the same for every net, and what varies little stays small.

    Args:
        mean: of the features `[D]`.
        basis: directions `[D, R]`.
        spread: sum of squares along each of them `[R]`.
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Space":
        """The space of features `[N, D]`."""
        mean = x.mean(dim=0)
        scale = (x - mean).square().sum(dim=1).mean().sqrt().clamp(min=1e-20)
        rows = (x - mean) / scale
        few = len(rows) < rows.shape[1]
        spread, turned = torch.linalg.eigh(rows @ rows.T if few else rows.T @ rows)
        lively = spread > FLAT * spread[-1].clamp(min=1e-9)
        spread, turned = spread[lively], turned[:, lively]
        return cls(mean, (rows.T @ turned / spread.sqrt() if few else turned) / scale, spread)

    def __call__(self, x: Tensor) -> Tensor:
        """Features `[N, D]` → `[N, R]`."""
        return (x - self.mean) @ self.basis

    def layer(self, found: Linear) -> Linear:
        """The same layer for features as they come."""
        weight = self.basis @ found.weight
        return Linear(weight, found.bias - self.mean @ weight)


@dataclass(frozen=True)
class Problem:
    """What is minimised: the sum of cross-entropies, plus penalty / 2 · |weight|².

    Several layers are solved side by side, each on photos of its own: it takes one pass for all.

    Args:
        x: `[N, R]`, in a `Space`.
        spread: of the space `[R]`.
        labels: `[N]`, from 0 on.
        classes: how many.
        weigh: how much each photo counts for each layer `[N, P]`; 0 where it has no part.
        smoothing: of the labels, as `torch.nn.CrossEntropyLoss` has it.
        tolerance: change of the mean loss at which it is solved.
    """

    x: Tensor
    spread: Tensor
    labels: Tensor
    classes: int
    weigh: Tensor
    smoothing: float = 0.0
    tolerance: float = 1e-8

    def path(self, penalties: Iterable[float | Tensor] = PENALTIES) -> Iterator[list[Linear]]:
        """The best layers for each penalty, from the stiffest on; each begins with the last.

        Args:
            penalties: a number, or one for each layer `[P]`.
        """
        count = self.weigh.shape[1]
        weight = self.x.new_zeros(self.x.shape[1], count, self.classes)
        bias = self.x.new_zeros(count, self.classes)
        for penalty in penalties:
            weight, bias = self._solved(torch.as_tensor(penalty).expand(count), weight, bias)
            yield [Linear(weight[:, i], bias[i]) for i in range(count)]

    @torch.enable_grad()
    def _solved(self, penalty: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        photos, penalty = len(self.x), penalty[:, None]
        share = self.weigh.mean(dim=0)[:, None]
        curve = ((self.spread[:, None, None] * share / 4 + penalty) / photos).sqrt()
        variables = [(weight * curve).requires_grad_(), (bias / 2).requires_grad_()]
        options = {"max_iter": STEPS, "tolerance_grad": 1e-5, "tolerance_change": self.tolerance}
        options |= {"history_size": HISTORY, "line_search_fn": "strong_wolfe"}
        solver = torch.optim.LBFGS(variables, **options)
        labels = self.labels.repeat_interleave(len(penalty))

        def loss() -> Tensor:
            solver.zero_grad()
            own = variables[0] / curve
            logits = (self.x @ own.flatten(1)).view(photos, *bias.shape) + 2 * variables[1]
            each = F.cross_entropy(
                logits.flatten(0, 1), labels, reduction="none", label_smoothing=self.smoothing
            )
            value = each @ self.weigh.flatten() + (penalty / 2 * own.square()).sum()
            (value / photos).backward()
            return value.detach() / photos

        solver.step(loss)
        return (variables[0] / curve).detach(), 2 * variables[1].detach()


def chosen(problem: Problem, folds: Tensor) -> tuple[int, float]:
    """Which of the penalties has the lowest loss on photos out of their fold, and that loss.

    Args:
        problem: of one layer.
        folds: of each photo `[N]`.
    """
    out = F.one_hot(folds) * problem.weigh
    losses: list[float] = []
    for found in replace(problem, weigh=problem.weigh - out, tolerance=ROUGH).path():
        each = zip(found, out.T, strict=True)
        losses.append(sum(_loss(problem, layer, own) for layer, own in each))
        if losses[-1] > WORSE * min(losses):
            break
    best = losses.index(min(losses))
    return best, losses[best] / float(problem.weigh.sum())


def _loss(problem: Problem, layer: Linear, weigh: Tensor) -> float:
    each = F.cross_entropy(layer(problem.x), problem.labels, reduction="none")
    return float(each @ weigh)
