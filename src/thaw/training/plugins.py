"""What settings bring by `_target_`: a loss, further metrics, callbacks.

Each is tried out before anything slow, and refused in a sentence where it can't do its part.
"""

import inspect
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassStatScores

from thaw.errors import UserError

EXTRAS = ("mlflow", "wandb")  # loggers whose package is an extra of the same name
# What `metrics.json` and `history.csv` call numbers of Thaw's own.
TAKEN = ("acc", "balanced_acc", "brier", "ece", "f1", "images", "loss", "worst_class")
TAKEN += ("worst_recall",)


def made(where: str, node: Any, **how: Any) -> Any:
    """What a node of settings with `_target_` makes.

    Raises:
        UserError: it has no `_target_`, or that can't be found, needs a package, or refuses.
    """
    plain = plain_node(node)
    if not isinstance(plain, Mapping) or not isinstance(plain.get("_target_"), str):
        raise UserError(
            f"Expected {where} to have a _target_, the name of a class such as"
            f" torchmetrics.AUROC, with its arguments beside it; got {plain!r}."
        )
    try:
        return instantiate(plain, _convert_="all", **how)
    except InstantiationException as error:
        cause = error.__cause__ or error.__context__ or error
        if isinstance(cause, UserError):
            raise cause from error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise UserError(
            f"{where} can't be made of {plain['_target_']}: {reason.rstrip('.')}{_install(where)}."
        ) from error


def plain_node(node: Any) -> Any:
    """Settings as plain values, with what they refer to."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _install(where: str) -> str:
    name = where.rpartition(".")[2]
    known = where.startswith("logger.") and name in EXTRAS
    return f'; it comes with pip install "thaw-vision[{name}]"' if known else ""


def all_made(group: str, nodes: Mapping[str, Any] | None, kind: type, **how: Any) -> dict[str, Any]:
    """What the nodes of a group make, by name; a node that is null is left out.

    Raises:
        UserError: naming all that can't be made, or make something else than `kind`.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, node in (nodes or {}).items():
        if node is None:
            continue
        try:
            found[name] = made(f"{group}.{name}", node, **how)
            if not isinstance(found[name], kind):
                raise UserError(
                    f"Expected {group}.{name} to make a {kind.__name__},"
                    f" got a {type(found[name]).__name__}."
                )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


# --- loss -----------------------------------------------------------------------------------------


class Loss(nn.Module):
    """A loss of logits `[B, classes]` and labels `[B]`; of torch.nn, or anything called likewise.

    Losses that compare with a value for each class (BCEWithLogitsLoss, MSELoss) get the labels as
    rows of 0 and 1.

    Args:
        function: the loss; `made` from the settings.
        classes: how many.
        weights: of each class `[classes]`, 1 on average over the photos: `data.balance=loss`.

    Raises:
        UserError: it isn't a loss of logits, or doesn't tell a photo's own part where there are
            `weights`.
    """

    weights: Tensor | None

    def __init__(
        self, function: Callable[..., Tensor], classes: int, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.function, self.one_hot = function, False
        self.register_buffer("weights", None, persistent=False)
        if isinstance(function, nn.Module) and any(True for _ in function.parameters()):
            raise UserError(f"Expected a loss that has nothing to learn, but {self.name} has.")
        reasons = [self._why_not(classes, one_hot) for one_hot in (False, True)]
        if None not in reasons:
            raise UserError(
                f"Expected loss to take logits [B, classes] and labels [B], and to fall as the"
                f" logit of the right class rises, as torch.nn.CrossEntropyLoss does; but with"
                f" {self.name} {reasons[0]}."
            )
        self.one_hot = reasons[0] is not None
        if weights is not None:
            if not hasattr(function, "reduction"):
                raise UserError(
                    f"data.balance=loss weights each photo, which needs a loss with `reduction`, as"
                    f" those of torch.nn have; {self.name} has none. Use data.balance=sampler."
                )
            function.reduction = "none"  # type: ignore[attr-defined]
            self.weights = weights

    @property
    def name(self) -> str:
        """What the settings call it."""
        kind = self.function if inspect.isfunction(self.function) else type(self.function)
        return getattr(kind, "__name__", str(kind))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits `[B, classes]` and labels `[B]` → the loss, a number."""
        found = self._of(logits, labels)
        if self.weights is None:
            return found
        each = found.flatten(1).mean(dim=1) if found.ndim > 1 else found
        return (each * self.weights[labels]).mean()

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.one_hot:
            return self.function(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))
        return self.function(logits, labels)

    def _why_not(self, classes: int, one_hot: bool) -> str | None:
        """Why it is no loss of logits; None if it is. The photos are one more than the classes."""
        self.one_hot = one_hot
        labels = torch.arange(classes + 1) % classes
        logits = torch.full((classes + 1, classes), 0.1, requires_grad=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes that it would broadcast
                found = self._of(logits, labels)
            if found.ndim:
                return f"it has the shape {list(found.shape)} (set reduction: mean)"
            found.backward()
            far = self._of(30 * F.one_hot(labels, classes).float() - 10, labels)
            if not far.isfinite():
                return "logits of 20 and -10 give no number"
        except Exception as error:  # whatever a loss says of arguments that aren't its own
            return f"torch says: {' '.join(str(error).split())[:200].rstrip('.')}"
        slope = logits.grad
        right = F.one_hot(labels, classes).bool()
        if slope is None or not slope.isfinite().all():
            return "it has no gradient"
        if not (slope[right] < 0).all() or (slope[~right] < 0).any() or not slope[~right].any():
            return "it doesn't (it may want probabilities, their logarithms, or labels of -1 and 1)"
        return None


# --- metrics --------------------------------------------------------------------------------------


def make_metrics(makers: Mapping[str, partial[Metric]], classes: int) -> dict[str, Metric]:
    """Metrics of probabilities `[B, classes]` and labels `[B]`, each of which gives a number.

    `task` is multiclass and `num_classes` the number of classes unless they are set.

    Raises:
        UserError: naming all that can't be made, or give something else.
    """
    found: dict[str, Metric] = {}
    problems: list[str] = []
    labels = torch.arange(classes + 1) % classes
    rows = F.one_hot(labels.flip(0), classes).float().mul(2).softmax(dim=1)
    for name, maker in makers.items():
        if name in TAKEN or "/" in name:
            problems.append(f"metrics.{name} is the name of a number that each run has; rename it.")
            continue
        try:
            known = inspect.signature(maker.func).parameters
            filled = {"task": "multiclass", "num_classes": classes}
            metric = maker(**{k: v for k, v in filled.items() if k in known} | maker.keywords)
            metric.update(rows, labels)
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TypeError("it gives more than one number")
            metric.reset()
            found[name] = metric
        except Exception as error:  # whatever a metric says of photos that aren't for it
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            problems.append(
                f"Expected metrics.{name} to give a number for probabilities [B, {classes}] and"
                f" labels [B], as torchmetrics.AUROC does: {reason}."
            )
    if problems:
        raise UserError("\n".join(problems))
    return found


def given(metric: Metric, logits: Tensor, log_prior: Tensor | None) -> Tensor:
    """What a metric is given of logits `[B, classes]`: probabilities for photos in their real mix,
    or, where it counts labels, those in which the label that is said is the largest.
    """
    counts = isinstance(metric, MulticlassStatScores | MulticlassConfusionMatrix)
    shift = log_prior if counts and log_prior is not None else 0.0
    return (logits.float() - shift).softmax(dim=1)


def measure(
    makers: Mapping[str, partial[Metric]],
    logits: Tensor,
    labels: Tensor,
    prior: Sequence[float] | None,
) -> dict[str, float]:
    """What further metrics come to for logits `[N, classes]` and labels `[N]`, in this process.

    The logits' softmax are the probabilities for photos in their real mix.
    """
    log_prior = None if prior is None else torch.tensor(prior).log()
    found = {}
    for name, metric in make_metrics(makers, logits.shape[1]).items():
        metric.sync_on_compute = False  # where several train together, one has all of them
        metric.update(given(metric, logits, log_prior), labels)
        found[name] = float(metric.compute())
    return found


# --- callbacks ------------------------------------------------------------------------------------


def make_callbacks(nodes: Mapping[str, Any] | None) -> list[Callback]:
    """The callbacks of the group `callbacks`.

    Raises:
        UserError: naming all that can't be made.
    """
    return list(all_made("callbacks", nodes, Callback).values())


class PlainStates(Callback):
    """Refuses a callback that couldn't be resumed: what it keeps is no plain value."""

    def __init__(self, callbacks: list[Callback]) -> None:
        self.callbacks = callbacks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what they keep, and read it as a resumed run does."""
        for callback in self.callbacks:
            file = io.BytesIO()
            try:
                torch.save(callback.state_dict(), file)
                file.seek(0)
                torch.load(file, weights_only=True)
            except Exception as error:  # of pickle or of torch
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"Expected the state_dict of the callback {type(callback).__name__} to hold"
                    f" tensors and plain values only, or a run couldn't be resumed: {reason}."
                ) from error
