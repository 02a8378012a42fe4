"""The callback that solves the head: a phase of one epoch, which then measures what came out."""

import logging
import time
from collections import defaultdict
from itertools import islice

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from thaw.data.splits import Sample, together
from thaw.errors import UserError
from thaw.training.features import Extractor
from thaw.training.module import Classifier
from thaw.training.plugins import Loss
from thaw.training.probe.folds import fold_of_each
from thaw.training.probe.inputs import Inputs
from thaw.training.probe.logistic import PENALTIES, Linear, Problem, Space, chosen
from thaw.training.unfreezing import StagedUnfreezing

log = logging.getLogger(__name__)
FOLDS = 5  # at most, that choose the penalty
USUAL = 4  # place of the penalty that is taken where a class has too few photos to choose one
BATCHES = 8  # of photos, that show what a net makes of its head's answers
ROOM = 1.5  # times the lowest answer seen, by which all are raised where a ReLU may follow
SMALL = 10**7  # features; to wake up other threads for fewer takes longer than to do without
UNLIKE = 0.02  # mean difference of probabilities from which on a net doesn't say what was solved


class Solving(Callback):
    """Puts the best head for the train photos in place where a phase says so.

    It learns from the photos as they are, without augmentation. Comes after `FrozenWork` in the
    trainer's callbacks.

    Raises:
        UserError: a phase is to be solved, and what trains isn't cross-entropy.
    """

    def __init__(self, extractor: Extractor, staged: StagedUnfreezing, loss: Loss) -> None:
        self.extractor, self.staged = extractor, staged
        solves = any(phase.solve for phase in staged.schedule.phases)
        self.smoothing = smoothing(loss) if solves else 0.0
        self.solving = False  # in this epoch
        self.threads = torch.get_num_threads()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Solve it in one process; those that train with it get the same."""
        self.solving = self.staged.phase.solve
        if not self.solving:
            return
        assert isinstance(pl_module, Classifier)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        inputs = Inputs(self.extractor, ["train"])
        found, x = None, inputs.read()
        if x.numel() < SMALL:
            torch.set_num_threads(1)
        if trainer.is_global_zero:
            found = self._solved(x[: len(self.extractor.data.splits["train"])], pl_module)
        found = trainer.strategy.broadcast(found)
        assert found is not None
        put(found, x, inputs)
        torch.set_num_threads(threads)
        pl_module.backbone.eval()  # nothing trains: the epoch measures

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the optimizer saw, at a learning rate of 0, means nothing to later phases."""
        if self.solving:
            trainer.optimizers[0].state.clear()

    def _solved(self, x: Tensor, module: Classifier) -> Linear:
        """The best layer for features `[N, D]` of the train photos."""
        data, began = self.extractor.data, time.perf_counter()
        whole = [i for i, s in enumerate(data.splits["train"]) if s.path not in data.broken]
        samples = [data.splits["train"][i] for i in whole]
        labels, x = torch.tensor([sample.label for sample in samples]), x[whole]
        if not x.isfinite().all():
            raise UserError("The net's features aren't finite numbers, so no head fits them.")
        weigh, space = torch.ones(len(x)), Space.of(x)
        if module.log_prior is not None:  # whether photos are drawn or weighed: each class alike
            weigh = 1 / (module.log_prior.cpu().exp() * len(data.classes))[labels]
        made = (space(x), space.spread, labels, len(data.classes), weigh[:, None], self.smoothing)
        problem = Problem(*made)
        digests = data.digests("train")
        folds = self._folds(samples, [digests[i] for i in whole], module)
        place, loss = (USUAL, None) if folds is None else chosen(problem, folds)
        ((found,),) = problem.path([PENALTIES[place]])
        log.info(
            "phase %s: solved on %d photos, L2 of %.2g%s, in %.1f s",
            self.staged.phase.name,
            len(x),
            PENALTIES[place],
            "" if folds is None else f" (out of {int(folds.max()) + 1} folds: loss {loss:.4f})",
            time.perf_counter() - began,
        )
        return space.layer(found)

    @staticmethod
    def _folds(samples: list[Sample], digests: list[str], module: Classifier) -> Tensor | None:
        """Of each photo `[N]`; None where a class has what belongs together in one alone."""
        kinds: dict[int, set[int]] = defaultdict(set)
        keys = together(digests, [sample.group for sample in samples])
        for sample, key in zip(samples, keys, strict=True):
            kinds[sample.label].add(key)
        count = min(FOLDS, *map(len, kinds.values()))
        if count < 2:
            return None
        return fold_of_each(samples, module.classes, count, module.seed, digests)


def smoothing(loss: Loss) -> float:
    """How much a loss smooths the labels, where it is a cross-entropy.

    Raises:
        UserError: it is none.
    """
    function = loss.function
    if not isinstance(function, nn.CrossEntropyLoss) or function.weight is not None:
        raise UserError(
            "A phase that is solved (finetune.phases.PHASE.solve) minimises cross-entropy, so"
            f" expected loss=cross_entropy or loss=label_smoothing, got {loss.name};"
            " a schedule without a solved phase, such as head_only or full, trains with any."
        )
    return function.label_smoothing


@torch.no_grad()
def put(found: Linear, x: Tensor, inputs: Inputs) -> None:
    """Make it the head's, and see that the net then says what was solved.

    A ReLU that follows a Conv2d head (SqueezeNet's does) would cut off what is below 0. Logits mean
    the same when all are raised, so they are raised until nothing is.

    Args:
        x: what the head reads of the photos that come first `[N, D]`.

    Raises:
        UserError: it says something else.
    """
    backbone = inputs.extractor.backbone
    head = backbone.head
    head.weight.copy_(found.weight.T.reshape(head.weight.shape))
    assert head.bias is not None  # `Schedule.check` saw it
    head.bias.copy_(found.bias)
    if isinstance(head, nn.Conv2d):
        _, lowest = _said(inputs)
        head.bias -= ROOM * min(lowest, 0.0)
    logits, _ = _said(inputs)
    expected = found(x[: len(logits)]).softmax(dim=1)
    if not (logits.softmax(dim=1) - expected).abs().mean() < UNLIKE:
        raise UserError(
            f"{backbone.origin['name']} does more with what its head says than to average it, so"
            " its head can't be solved; finetune=head_only trains it."
        )


@torch.inference_mode()
def _said(inputs: Inputs) -> tuple[Tensor, float]:
    """The net's logits of the first photos `[N, classes]`, and the lowest that its head says."""
    lowest: list[Tensor] = []
    hook = inputs.extractor.backbone.head.register_forward_hook(
        lambda _, __, output: lowest.append(output.min().float())
    )
    with inputs.extractor.autocast():
        logits = [inputs.run(batch).float() for batch in islice(inputs, BATCHES)]
    hook.remove()
    return torch.cat(logits).cpu(), float(torch.stack(lowest).min())
