"""What a run reports: its numbers, its predictions, and the circumstances."""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from thaw.evaluation.scores import scores
from thaw.intervals import wilson
from thaw.model.prediction import columns
from thaw.nets.backbone import Backbone
from thaw.training.history import History
from thaw.training.unfreezing import StagedUnfreezing

PACKAGES = (
    "thaw-vision",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "hydra-core",
    "torchmetrics",
)


def environment(seed: int, device: torch.device) -> dict[str, Any]:
    """What ran where: versions, git state, device, command."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "git": {
            "commit": _git("rev-parse", "HEAD"),
            "changed": bool(_git("status", "--porcelain")),
        },
        "device": f"{device.type} {name or platform.machine()}",
        "threads": torch.get_num_threads(),
        "seed": seed,
    }


@cache  # of the code that this process has read, whatever becomes of it during a sweep
def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Clock:
    """Wall-clock seconds by name, for `with clock("fit"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        began = time.perf_counter()
        yield
        self.seconds[f"seconds/{name}"] = time.perf_counter() - began


def metrics(
    results: Mapping[str, Tensor],
    backbone: Backbone,
    history: History,
    staged: StagedUnfreezing,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The flat contents of `metrics.json`: test on the best epoch, val and train of that epoch."""
    test = scores(results["logits"], results["label"], results["predicted"])
    photos = len(results["label"])
    best = history.best
    return {
        **{f"test/{key}": value for key, value in test.items()},
        "test/images": photos,
        **{key: value for key, value in best.items() if key.startswith(("val/", "train/"))},
        "best/epoch": best["epoch"],
        "epochs": len(history.rows),
        "seconds/epoch": statistics.mean(row["seconds"] for row in history.rows),
        **seconds,
        "seconds/fit": seconds["seconds/fit"] + history.seconds_before,
        **cost(backbone),
        "params/trainable": staged.schedule.trainable(backbone),
        "frozen/unchanged": staged.unchanged(backbone),
    }


def cost(backbone: Backbone) -> dict[str, Any]:
    """What a net takes: parameters, and milliseconds a photo."""
    milliseconds, busy = latency(backbone)
    return {
        "params/total": sum(p.numel() for p in backbone.net.parameters()),
        "model/latency_ms": milliseconds,
        "model/latency_busy": busy,
    }


_latencies: dict[str, tuple[float, bool]] = {}  # jobs of a sweep share what was measured of a net
BUSY = 1.5  # times as long as it computed, from which on a net waited for other programs


def latency(backbone: Backbone) -> tuple[float, bool]:
    """Milliseconds of one photo `[1, 3, H, W]` through the net, without decoding; and whether the
    machine was busy with other programs.

    On a CPU it is the time that one thread computes, in the quickest of several passes: a clock on
    the wall would mostly tell what else the machine does, and several threads wait for one another.
    A process measures a net once: it takes as long whatever its weights are.
    """
    backbone.eval()
    device = next(backbone.parameters()).device
    shape = tuple(backbone.head.weight.shape)
    key = f"{backbone.origin} {shape} {device} {backbone.memory_format} {backbone.input_size}"
    if key not in _latencies:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            _latencies[key] = _measured(backbone, device)
        finally:
            torch.set_num_threads(threads)
    return _latencies[key]


@torch.inference_mode()
def _measured(backbone: Backbone, device: torch.device) -> tuple[float, bool]:
    image = torch.zeros(1, 3, backbone.input_size, backbone.input_size, device=device)
    clock = time.thread_time if device.type == "cpu" else time.perf_counter  # one waits for a GPU
    passes: list[tuple[float, float]] = []  # of this thread, on the wall
    began = time.perf_counter()
    while len(passes) < 7 or (len(passes) < 30 and time.perf_counter() - began < 0.3):
        own, wall = clock(), time.perf_counter()
        backbone(image).cpu()  # waits for a GPU
        passes.append((clock() - own, time.perf_counter() - wall))
    passes = passes[2:]  # the first two warm up
    computed = min(own for own, _ in passes)
    return 1000 * computed, statistics.median(wall for _, wall in passes) > BUSY * computed


def predictions(
    photos: Sequence[str],
    labels: Sequence[int],
    results: Mapping[str, Tensor],
    classes: Sequence[str],
    familiarity: Tensor | None,
) -> list[dict[str, Any]]:
    """Rows of `predictions.csv`: path, label, prediction, confidence, familiarity (empty where val
    can't promise anything of it), and a `p:CLASS` for each.

    Args:
        results: `logits` `[N, classes]`, whose softmax are the probabilities, and the class that is
            said, `predicted` `[N]`.
        familiarity: p-values `[N]`.
    """
    probabilities = results["logits"].softmax(dim=1).tolist()
    p = [None] * len(photos) if familiarity is None else familiarity.tolist()
    rows = []
    said = results["predicted"].tolist()
    for path, label, row, best, known in zip(photos, labels, probabilities, said, p, strict=True):
        values = {
            "path": path,
            "label": classes[label],
            "prediction": classes[best],
            "confidence": row[best],
            "familiarity": known,
        }
        rows.append(values | columns(dict(zip(classes, row, strict=True))))
    return rows


def final(metrics: Mapping[str, Any], further: Sequence[str] = ()) -> dict[str, float]:
    """What loggers are told at the end, and TensorBoard's HPARAMS tab lists."""
    photos = metrics.get("val/images", 0)
    low, high = wilson(metrics["val/acc"] * photos, photos) if photos else (None, None)
    seconds = [metrics.get(f"seconds/{what}") for what in ("fit", "test")]
    told = {
        "test/acc": metrics["test/acc"],
        "test/loss": metrics["test/loss"],
        "result/test_acc_low": metrics.get("test/acc_low"),
        "result/test_acc_high": metrics.get("test/acc_high"),
        "result/balanced_acc": metrics["test/balanced_acc"],
        "result/worst_recall": metrics["test/worst_recall"],
        "result/f1": metrics["test/f1"],
        "result/ece": metrics.get("test/ece"),
        "result/val_acc": metrics["val/acc"],  # of the epoch that is kept
        "result/val_acc_low": low,
        "result/val_acc_high": high,
        "result/val_loss": metrics["val/loss"],
        "result/seconds": sum(filter(None, seconds)) or None,
        "result/model_MB": metrics["model/bytes"] / 1e6 if "model/bytes" in metrics else None,
        **{name: metrics[name] for name in further},
    }
    return {name: value for name, value in told.items() if value is not None}
