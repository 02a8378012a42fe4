"""Where in a photo a label comes from: Grad-CAM (Selvaraju et al. 2017), for CNNs and ViTs."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thaw.data import grid
from thaw.data.dataset import cropped, seen
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.model.bundle import Model
from thaw.model.prediction import Prediction
from thaw.page.figure import write_figure

SIDE = 224  # pixels of each picture


def heat(model: Model, images: list[Image.Image]) -> Tensor:
    """How much each place speaks for the most probable class, `[B, h, w]`, 0 to 1 in each photo;
    of an ensemble, the mean of its nets'.

    Each map of the last stage that still has places is weighted with how much the class's logit
    rises with it, on average over the places; what speaks against the class counts as 0. In a ViT
    whose head reads the class token alone, the patches after the last block change nothing, so the
    block before it is that stage.

    Raises:
        UserError: no stage has places.
    """
    inputs = torch.stack([seen(model.transforms, image) for image in images])
    inputs = inputs.to(model.device).requires_grad_()
    with torch.enable_grad():
        logits, outputs = model.backbone.stage_outputs(inputs)
        top = logits.amax(dim=1).sum()
        each = [_heat(top, [outputs[stage] for stage in row]) for row in model.backbone.blocks]
    found = [heat for heat in each if heat is not None]
    if not found:
        raise UserError(
            f"Expected a net with a stage that keeps apart the places of a photo, but"
            f" {model.info['arch']['name']} has none; its answers can't be explained."
        )
    return torch.stack(found).mean(dim=0)


def _heat(top: Tensor, outputs: list[Any]) -> Tensor | None:
    """As `heat`, of one net's stages; None where none has places."""
    for output in reversed(outputs):
        if not isinstance(output, Tensor) or not output.requires_grad:
            continue
        (slope,) = torch.autograd.grad(top, output, retain_graph=True, allow_unused=True)
        maps = _maps(output)
        if slope is not None and maps is not None and (slope := _maps(slope)).any():
            heat = (maps * slope.mean(dim=(2, 3), keepdim=True)).sum(dim=1).relu()
            heat = heat.detach().cpu()
            return heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    return None


def _maps(output: Tensor) -> Any:
    """`[B, C, h, w]` of what a stage made of square photos; None where it has no places.

    Channels may come last (Swin), and patches in a row after the class token (ViT).
    """
    if output.ndim == 4:
        height, width = output.shape[2:]
        maps = output if height == width else output.permute(0, 3, 1, 2)
        return maps if maps.shape[2] == maps.shape[3] > 1 else None
    if output.ndim == 3:
        side = math.isqrt(output.shape[1])
        patches = output[:, output.shape[1] - side**2 :]
        return patches.transpose(1, 2).unflatten(2, (side, side)) if side > 1 else None
    return None


def overlay(model: Model, image: Image.Image) -> Image.Image:
    """What the net sees of a photo, and beside it the same with the heat over it."""
    shown = cropped(model.transforms, image).resize((SIDE, SIDE))
    warm = F.interpolate(heat(model, [image])[None], size=(SIDE, SIDE), mode="bicubic")
    warm = warm[0, 0].clamp(0, 1).numpy()[..., None]
    colours = 255 * colormaps["turbo"](warm[..., 0])[..., :3]
    share = 0.65 * np.sqrt(warm)  # cold places stay as they are
    painted = (1 - share) * np.asarray(shown) + share * colours
    both = Image.new("RGB", (2 * SIDE + 4, SIDE), "white")
    both.paste(shown, (0, 0))
    both.paste(Image.fromarray(painted.astype(np.uint8)), (SIDE + 4, 0))
    return both


def draw(path: Path, model: Model, predictions: Iterable[Prediction]) -> None:
    """Draw for each photo what the net sees, and where its most probable label comes from."""
    tiles = []
    for prediction in predictions:
        by_class = prediction.probabilities
        top = max(by_class, key=by_class.__getitem__)
        top = prediction.label if prediction.label in by_class else top
        words = f"{Path(prediction.path).name}\n{top} ({prediction.confidence:.1%})"
        words += "" if prediction.label == top else f", {prediction.label}"
        tiles.append((overlay(model, load_photo(prediction.path, model.white)), words, "black"))
    title = "What the net sees, and where its label comes from (red: most)"
    write_figure(path, grid.draw(tiles, title, side=2 * SIDE + 4))
