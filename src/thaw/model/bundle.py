"""The bundle `model/`: weights, preprocessing and classes travel together, without any pickle."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw.data.dataset import seen
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.errors import UserError
from thaw.files import write_json
from thaw.model.prediction import Prediction, decide
from thaw.nets.backbone import Backbone
from thaw.nets.pretrained import build

FORMAT = 1
KEYS = ("arch", "classes", "transforms", "temperature", "threshold", "weights_sha256")


class Model:
    """A trained classifier with all that it needs, as `thaw.load` returns it.

    Args:
        backbone: with the trained weights.
        info: the contents of `model.json`.
    """

    def __init__(self, backbone: Backbone, info: dict[str, Any]) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.info = info
        self.classes: list[str] = info["classes"]
        self.transforms = backbone.transforms
        self.temperature: float = info["temperature"]
        self.threshold: float | None = info["threshold"]
        self.conformal: list[float] | None = info.get("conformal")  # for prediction sets
        self.white: dict[str, float] = info.get("white", {})  # see `thaw.data.pixels.deep`

    def logits(self, images: list[Image.Image]) -> torch.Tensor:
        """Upright RGB photos → logits `[B, classes]`, before the temperature."""
        return self._logits([seen(self.transforms, image) for image in images])

    @torch.inference_mode()
    def _logits(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return self.backbone(torch.stack(inputs))

    def probabilities(self, images: list[Image.Image]) -> torch.Tensor:
        """Upright RGB photos → probabilities `[B, classes]`."""
        return (self.logits(images) / self.temperature).softmax(dim=1)

    def logits_of(
        self,
        paths: Iterable[Path | str],
        batch_size: int = 32,
        on_broken: Callable[[BrokenPhoto], None] | None = None,
    ) -> Iterator[tuple[list[Path | str], torch.Tensor]]:
        """Photos and their logits `[B, classes]`, a batch at a time; see `predict`."""
        waiting = iter(paths)
        while batch := list(islice(waiting, batch_size)):
            inputs: dict[Path | str, torch.Tensor] = {}
            for path in batch:  # one photo in full size at a time
                try:
                    inputs[path] = seen(self.transforms, load_photo(path, self.white))
                except BrokenPhoto as error:
                    if on_broken is None:
                        raise
                    on_broken(error)
            if inputs:
                yield list(inputs), self._logits(list(inputs.values()))

    def predict(
        self,
        paths: Iterable[Path | str],
        threshold: float | None = None,
        batch_size: int = 32,
        on_broken: Callable[[BrokenPhoto], None] | None = None,
    ) -> Iterator[Prediction]:
        """Say of each photo what it shows, a batch at a time.

        Args:
            threshold: confidence below which the label is "unsure"; the bundle's own if None.
            on_broken: told of a photo that can't be decoded, which is then left out.

        Raises:
            BrokenPhoto: a photo can't be decoded, and `on_broken` is None.
        """
        threshold = self.threshold if threshold is None else threshold
        for photos, logits in self.logits_of(paths, batch_size, on_broken):
            rows = (logits / self.temperature).softmax(dim=1).tolist()
            for path, row in zip(photos, rows, strict=True):
                yield decide(path, self.classes, row, threshold)


def save(folder: Path, backbone: Backbone, classes: list[str], **facts: Any) -> int:
    """Write a bundle and return its size in bytes.

    `model.json` comes last, so a folder without it is no bundle.

    Args:
        facts: further plain values for `model.json`, such as metrics and the data's digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in backbone.net.state_dict().items()}
    weights = folder / "weights.safetensors"
    partial = weights.with_suffix(".partial")
    save_file(tensors, partial)
    partial.chmod(0o666 & ~_umask())  # safetensors makes files that only the owner can read
    os.replace(partial, weights)
    info = {
        "format": FORMAT,
        "arch": backbone.origin,
        "classes": classes,
        "transforms": describe_transforms(backbone.transforms),
        "temperature": 1.0,
        "threshold": None,
        "weights_sha256": _sha256(weights),
        "pretrained": {key: backbone.meta.get(key) for key in ("source", "url", "licence")},
        **facts,
    }
    write_json(folder / "model.json", info)
    return sum(file.stat().st_size for file in folder.iterdir())


def change(path: Path | str, **values: Any) -> None:
    """Change plain values in the `model.json` of a bundle, or of a run folder's `model/`."""
    file = _folder(path) / "model.json"
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | values)


def _folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    return folder / "model" if (folder / "model").is_dir() else folder


def load(path: str | os.PathLike[str]) -> Model:
    """Rebuild the model of a bundle, or of a run folder's `model/`; no network, no pickle.

    Raises:
        UserError: there is no bundle, it is of a later format, or its weights were changed.
    """
    folder = _folder(path)
    file, weights = folder / "model.json", folder / "weights.safetensors"
    if not file.is_file() or not weights.is_file():
        raise UserError(
            f"Expected a run folder or a bundle in {path}, but there is no model.json with"
            " weights.safetensors; a run writes its bundle to model/ when it ends."
        )
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        version = info["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {error!r}.") from error
    if version != FORMAT:
        raise UserError(f"{file} has format {version}, this Thaw reads {FORMAT}; update one.")
    missing = [key for key in KEYS if key not in info]
    if missing:
        raise UserError(f"{file} is damaged: it lacks {missing}.")
    if _sha256(weights) != info["weights_sha256"]:
        raise UserError(
            f"{weights} isn't what {file} was written with (its sha256 differs); copy the bundle"
            " again."
        )
    backbone = Backbone(build(info["arch"]), _transforms(info["transforms"]), info["arch"])
    backbone.reset_head(len(info["classes"]))
    try:
        backbone.net.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise UserError(
            f"{weights} doesn't fit the arch and the {len(info['classes'])} classes of {file}."
        ) from error
    return Model(backbone, info)


def describe_transforms(transforms: ImageClassification) -> dict[str, Any]:
    """Plain values that say all about them."""
    keys = ("resize_size", "crop_size", "mean", "std", "antialias")
    values = {key: getattr(transforms, key) for key in keys}
    return values | {"interpolation": transforms.interpolation.value}


def _transforms(values: dict[str, Any]) -> ImageClassification:
    transforms = ImageClassification(
        crop_size=values["crop_size"][0],
        mean=values["mean"],
        std=values["std"],
        interpolation=InterpolationMode(values["interpolation"]),
        antialias=values["antialias"],
    )
    transforms.resize_size = values["resize_size"]  # one number, or two where it isn't square
    return transforms


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
