"""The LightningModule: loss, metrics, and one optimizer with a named group for every stage."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassStatScores,
)

from thaw.data.augment import mix
from thaw.errors import UserError
from thaw.nets.backbone import Backbone
from thaw.nets.fold import folded
from thaw.training.plugins import Loss, given
from thaw.training.unfreezing import gathered

MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]
Runs = dict[bool, Callable[[Tensor], Tensor]]


class BalancedAccuracy(MulticlassStatScores):
    """The mean of the classes' recalls; classes without photos have none."""

    def compute(self) -> Tensor:
        """A number from 0 to 1."""
        hits, _, _, missed = self._final_state()
        seen = hits + missed > 0
        return (hits[seen] / (hits + missed)[seen]).mean()


class Classifier(LightningModule):
    """A backbone that learns to tell `classes` apart.

    Args:
        backbone: with a head for these classes.
        classes: names, in the order of the logits.
        optimizer: makes an optimizer from parameter groups; learning rates are the schedule's.
        seed: of dropout and stochastic depth.
        compile_net: run the net through `torch.compile`, with a backend of this name.
        fold: on a CPU, fold BatchNorms that stand still into convolutions (`thaw.nets.fold`).
        loss: what trains; cross-entropy if None. `val/loss` is cross-entropy whatever trains: a
            proper score, and one that runs with different losses can be compared by.
        metrics: further ones, told on val as `val/NAME`.
        prior: each class's share of the train photos `[classes]`, where training weighs classes
            alike (`data.balance`). Labels are what it then says; `val/loss` is that of the
            probabilities for photos in their real mix (Saerens et al. 2002), as without balance:
            it is proper for the same answers, each val photo counts once (of a rare class there
            may be two), and runs with and without balance can be compared by it.
    """

    log_prior: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        classes: list[str],
        optimizer: MakeOptimizer,
        seed: int = 0,
        compile_net: bool | str = False,
        fold: bool = False,
        loss: Loss | None = None,
        metrics: Mapping[str, Metric] | None = None,
        prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.classes, self.seed = backbone, classes, seed
        self.compile_net, self.fold = compile_net, fold
        # What runs in train mode and in eval mode. No modules, or they'd be children once more.
        self.whole: Runs = {}
        self.tail: Runs = {}  # what follows cached features
        self.make_optimizer = optimizer
        self.train_acc = MulticlassAccuracy(len(classes), average="micro")
        self.val_metrics = MetricCollection(
            {
                "acc": MulticlassAccuracy(len(classes), average="micro"),
                "f1": MulticlassF1Score(len(classes), average="macro"),
                "balanced_acc": BalancedAccuracy(len(classes), average="macro"),
            },
            prefix="val/",
        )
        self.loss = loss or Loss(nn.CrossEntropyLoss(), len(classes))
        # The names of some metrics would be those of a ModuleDict's own methods.
        self.further = nn.ModuleDict({f"val_{name}": m for name, m in (metrics or {}).items()})
        self.register_buffer("log_prior", None, persistent=False)
        if prior is not None:
            self.log_prior = prior.log()
        self.tested: dict[int, list[dict[str, Tensor]]] = {}  # by loader

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` → logits `[B, classes]`."""
        self.whole = self.whole or self._prepared(dict.fromkeys((True, False), self.backbone.net))
        images = images.contiguous(memory_format=self.backbone.memory_format)
        return self.whole[self.backbone.training](images)

    def phase_changed(self) -> None:
        """Compile or fold anew, with what is frozen now.

        Compiled code goes on without gradients for what was frozen in it: Dynamo doesn't guard on
        `requires_grad` (pytorch/pytorch#139476).
        """
        if self.compile_net:
            torch.compiler.reset()
        self.whole = {}

    def use_tail(self, tails: Mapping[bool, nn.Module] | None) -> None:
        """Run these on batches of features, in train and in eval mode: the part of the net behind
        where features were taken.
        """
        self.tail = self._prepared(tails) if tails else {}

    def _prepared(self, parts: Mapping[bool, nn.Module]) -> Runs:
        if self.compile_net:
            backend = self.compile_net if isinstance(self.compile_net, str) else "inductor"
            made = {part: torch.compile(part.forward, backend=backend) for part in parts.values()}
            return {mode: made[part] for mode, part in parts.items()}
        if not self.fold or self.device.type != "cpu":
            return {mode: part.forward for mode, part in parts.items()}
        mode, runs = self.backbone.training, {}
        for training, part in parts.items():
            self.backbone.train(training)
            runs[training] = folded(part)
        self.backbone.train(mode)
        return runs

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits `[B, classes]` of a batch's features, or of its images `[B, 3, H, W]`."""
        if "features" in batch:
            return self.tail[self.backbone.training](batch["features"])
        return self(batch["image"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make dropout a function of (seed, epoch, step), so that a resumed run repeats it."""
        seed = mix(self.seed, self.current_epoch, batch_idx, self.global_rank)
        # Without a GPU in use, `torch.manual_seed` notes the whole stack for the day there is one.
        alone = self.device.type == "cpu"
        (torch.default_generator.manual_seed if alone else torch.manual_seed)(seed)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch `{image: [B, 3, H, W], label: [B]}`."""
        logits = self.logits(batch)
        loss = self.loss(logits, batch["label"])
        self.train_acc.update(logits, batch["label"])
        size = len(logits)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        if self.trainer.is_last_batch:  # to log takes longer than to count
            self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Cross-entropy, top-1, balanced accuracy, macro F1 and further metrics of a batch."""
        logits, labels, size = self.logits(batch), batch["label"], len(batch["label"])
        self.val_metrics.update(logits, labels)
        said = logits if self.log_prior is None else logits + self.log_prior
        self.log("val/loss", F.cross_entropy(said, labels), batch_size=size, sync_dist=True)
        self.log_dict(self.val_metrics, batch_size=size)  # type: ignore[arg-type]
        for name, metric in self.further.items():
            assert isinstance(metric, Metric)
            metric.update(given(metric, said, self.log_prior), labels)
            self.log(name.replace("_", "/", 1), metric, batch_size=size)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep logits `[B, classes]`, features `[B, D]` (what the head read), labels and indices;
        the numbers are made from them after.
        """
        with self.backbone.reading() as read:
            logits = self.logits(batch).float()
        kept = {"logits": logits, "features": read[-1], "label": batch["label"]}
        self.tested.setdefault(dataloader_idx, []).append(kept | {"index": batch["index"]})

    def results(self, loader: int) -> dict[str, Tensor]:
        """Logits `[N, classes]`, features `[N, D]`, labels, indices `[N]` of a loader's photos,
        in its order; they are handed out once.
        """
        batches = self.tested.pop(loader, [])
        parts = gathered([{key: t.cpu() for key, t in batch.items()} for batch in batches])
        every = [batch for part in parts for batch in part]
        joined = {key: torch.cat([batch[key] for batch in every]) for key in every[0]}
        order = joined["index"].argsort()
        return {key: tensor[order] for key, tensor in joined.items()}

    def configure_optimizers(self) -> Optimizer:
        """One group a stage, named after it; norms and biases are apart where decay applies."""
        keywords = getattr(self.make_optimizer, "keywords", {})
        decays = bool(keywords.get("weight_decay"))
        groups = []
        for stage in self.backbone.stages:
            parameters = list(self.backbone.named_parameters_of(stage).values())
            # Decay pulls scales and shifts to 0, where they mean "off": timm exempts ndim <= 1 too.
            apart = [p for p in parameters if decays and p.ndim <= 1]
            rest = [p for p in parameters if not decays or p.ndim > 1]
            if rest:
                groups.append({"params": rest, "stage": stage, "name": stage, "lr": 0.0})
            if apart:
                name = f"{stage}-nodecay"
                group = {"params": apart, "stage": stage, "name": name, "lr": 0.0}
                groups.append(group | {"weight_decay": 0.0})
        return self.make_optimizer(groups)


def check_optimizer(make: MakeOptimizer) -> MakeOptimizer:
    """The same, once it has shown that it makes an optimizer.

    Raises:
        UserError: an argument is unknown or out of range.
    """
    try:
        make([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.0}])
    except (TypeError, ValueError) as error:
        raise UserError(f"The settings of optimizer don't fit: {error}.") from error
    return make
