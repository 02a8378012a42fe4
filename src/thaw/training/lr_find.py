"""Search a learning rate before training: raise it step by step until the loss blows up.

The learning rate range test of Smith (2017, arXiv 1506.01186). The suggestion is where the smoothed
loss falls most steeply over the logarithm of the learning rate, before its lowest point.
"""

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from thaw.data.folder import PhotoFolder
from thaw.files import write_json
from thaw.page.figure import write_figure
from thaw.runs.read import read_json
from thaw.runs.schema import items, number, or_none, record
from thaw.training.frozen_work import FrozenWork
from thaw.training.module import Classifier
from thaw.training.schedule import Schedule

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


_numbers = items(number(finite=False))
_rate = or_none(number(0, 1e9))
CURVE = record({"rates": _numbers, "losses": _numbers, "suggestion": _rate}, others=None)


def use_found_lr(
    module: Classifier,
    data: PhotoFolder,
    schedule: Schedule,
    work: FrozenWork,
    folder: Path,
    writes: bool = True,
) -> None:
    """Search, or read what a run found before, and put it into the schedule's first phase.

    Writes `lr_find.json` and `figures/lr_find.png` into the run folder.
    """
    file, phase = folder / "lr_find.json", schedule.phases[0]
    if file.is_file():
        curve = Curve(**read_json(file, CURVE))
    else:
        curve = search(module, data, schedule, work)
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


def search(module: Classifier, data: PhotoFolder, schedule: Schedule, work: FrozenWork) -> Curve:
    """Train the first phase for a few steps at rising rates; weights are as before afterwards."""
    backbone, phase = module.backbone, schedule.phases[0]
    backbone.to(work.extractor.device)
    schedule.apply(phase, backbone.train())
    work.prepare(module, phase)
    before = {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}
    optimizer = module.configure_optimizers()
    shares = {
        s: schedule.lr(replace(phase, lr=1.0, warmup=0), s, backbone, 0) for s in backbone.stages
    }
    rates, losses, smooth = [], [], 0.0
    with torch.random.fork_rng():
        torch.manual_seed(module.seed)
        for step, batch in enumerate(_forever(data, work.extractor.device)):
            rate = LOW * (HIGH / LOW) ** (step / (STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate * shares[group["stage"]]
            with work.extractor.autocast():
                loss = module.loss(module.logits(batch), batch["label"])
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


def _forever(data: PhotoFolder, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Train batches on the device, epoch after epoch."""
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield {key: tensor.to(device) for key, tensor in batch.items()}


def draw(curve: Curve, was: float, path: Path) -> None:
    """Draw the loss over the learning rate, with the suggestion and what was set."""
    from matplotlib.figure import Figure  # needs no backend: nothing is shown

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(curve.rates, curve.losses, color="#1f5a8a", linewidth=2)
    if curve.suggestion is not None:
        label = f"found: {curve.suggestion:.2g}"
        axis.axvline(curve.suggestion, color="#c8553d", linewidth=1.5, label=label)
    axis.axvline(was, color="0.6", linestyle="--", linewidth=1.2, label=f"set: {was:g}")
    axis.set(xscale="log", xlabel="learning rate of the head", ylabel="loss, smoothed")
    axis.set_title("The loss falls fastest where the learning rate is good", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    write_figure(path, figure)
