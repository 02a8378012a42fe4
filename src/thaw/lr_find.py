"""Search a learning rate before training: raise it step by step until the loss blows up.

The learning rate range test of Smith (2017, arXiv 1506.01186). The suggestion is where the smoothed
loss falls most steeply over the logarithm of the learning rate, before its lowest point.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.backbone import Backbone
from thaw.data import PhotoFolder
from thaw.module import Classifier
from thaw.run import write_json
from thaw.schedule import Schedule

log = logging.getLogger(__name__)
LOW, HIGH, STEPS = 1e-6, 1.0, 80
SMOOTH = 0.8  # share of the running loss that a step keeps
BLOWN_UP = 3.0  # times the lowest loss


@dataclass
class Curve:
    """Learning rates tried, smoothed losses, and the rate to use (None if no loss fell)."""

    rates: list[float]
    losses: list[float]
    suggestion: float | None


def use_found_lr(
    module: Classifier, data: PhotoFolder, schedule: Schedule, folder: Path, writes: bool = True
) -> None:
    """Search, or read what a run found before, and put it into the schedule's first phase.

    Writes `lr_find.json` and `figures/lr_find.png` into the run folder.
    """
    file, phase = folder / "lr_find.json", schedule.phases[0]
    if file.is_file():
        curve = Curve(**json.loads(file.read_text(encoding="utf-8")))
    else:
        curve = search(module, data, schedule)
        if writes:
            draw(curve, phase.lr, folder / "figures" / "lr_find.png")
            write_json(file, asdict(curve))
    if curve.suggestion is None:
        log.warning("No learning rate made the loss fall; phase %s keeps %g.", phase.name, phase.lr)
        return
    log.info(
        "learning rate of phase %s: %.2g was found, %g was set",
        phase.name,
        curve.suggestion,
        phase.lr,
    )
    schedule.phases[0] = replace(phase, lr=curve.suggestion)


def search(module: Classifier, data: PhotoFolder, schedule: Schedule) -> Curve:
    """Train the first phase for a few steps at rising rates; weights are as before afterwards."""
    backbone, phase = module.backbone, schedule.phases[0]
    schedule.apply(phase, backbone)
    before = {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}
    optimizer = module.configure_optimizers()
    shares = {
        s: schedule.lr(replace(phase, lr=1.0, warmup=0), s, backbone, 0) for s in backbone.stages
    }
    rates, losses, smooth = [], [], 0.0
    with torch.random.fork_rng():
        torch.manual_seed(module.seed)
        for step, (logits, labels) in enumerate(_forever(backbone, data)):
            rate = LOW * (HIGH / LOW) ** (step / (STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate * shares[group["stage"]]
            loss = F.cross_entropy(logits(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            smooth = SMOOTH * smooth + (1 - SMOOTH) * loss.item()
            rates.append(rate)
            losses.append(smooth / (1 - SMOOTH ** (step + 1)))  # without the pull of the first 0
            blown_up = not math.isfinite(losses[-1]) or losses[-1] > BLOWN_UP * min(losses)
            if blown_up or step + 1 == STEPS:
                break
    backbone.net.load_state_dict(before)
    backbone.thaw(backbone.stages, batch_norm="train")  # as it was; DDP must see all parameters
    optimizer.zero_grad()
    return Curve(rates, losses, suggest(rates, losses))


def suggest(rates: list[float], losses: list[float]) -> float | None:
    """The rate at which the loss falls most steeply, before its lowest point; None if it doesn't.

    >>> suggest([1e-4, 1e-3, 1e-2, 1e-1], [1.0, 0.9, 0.3, 2.0])
    0.001
    """
    lowest = losses.index(min(losses))
    falls = [losses[i] - losses[i + 1] for i in range(lowest)]
    return rates[falls.index(max(falls))] if falls else None


def _forever(
    backbone: Backbone, data: PhotoFolder
) -> Iterator[tuple[Callable[[], Tensor], Tensor]]:
    """Batches, epoch after epoch, as (makes the logits, labels).

    Where only the head trains and the net ends in it, the frozen part runs once a photo.
    """
    loader = data.train_dataloader()
    kept: list[tuple[Tensor, Tensor]] = []
    for batch in loader:
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        features = _head_input(backbone, images) if backbone.trained == {"head"} else None
        if features is None:
            yield lambda images=images: backbone(images), batch["label"]
        else:
            kept.append((features, batch["label"]))
            yield lambda features=features: backbone.head(features), batch["label"]
    epoch = 1
    while True:
        if kept:
            for features, labels in kept:
                yield lambda features=features: backbone.head(features), labels
        else:
            loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
            for batch in loader:
                images = batch["image"].contiguous(memory_format=torch.channels_last)
                yield lambda images=images: backbone(images), batch["label"]
        epoch += 1


@torch.no_grad()
def _head_input(backbone: Backbone, images: Tensor) -> Tensor | None:
    """What the head reads of images; None where the head's output isn't yet the logits."""
    seen: dict[str, Tensor] = {}
    hook = backbone.head.register_forward_pre_hook(lambda _, inputs: seen.update(input=inputs[0]))
    logits = backbone.eval()(images)
    hook.remove()
    features = seen["input"].clone()
    alone = backbone.head(features)
    backbone.train()
    return features if alone.shape == logits.shape and torch.equal(alone, logits) else None


def draw(curve: Curve, was: float, path: Path) -> None:
    """Draw the loss over the learning rate, with the suggestion and what was set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(curve.rates, curve.losses, color="#1f5a8a", linewidth=2)
    if curve.suggestion is not None:
        label = f"found: {curve.suggestion:.2g}"
        axis.axvline(curve.suggestion, color="#c8553d", linewidth=1.5, label=label)
    axis.axvline(was, color="0.6", linestyle="--", linewidth=1.2, label=f"set: {was:g}")
    axis.set(xscale="log", xlabel="learning rate of the head", ylabel="loss, smoothed")
    axis.set_title("The loss falls fastest where the learning rate is good", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
