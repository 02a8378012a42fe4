"""The bundle `model/`: weights, preprocessing and classes travel together, without any pickle."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw import escape
from thaw.data.dataset import normalised, pixels
from thaw.data.photos import BrokenPhoto
from thaw.data.stream import BATCH, stacked
from thaw.errors import UserError
from thaw.files import write_json, write_tensors
from thaw.model import description
from thaw.model.description import FORMAT
from thaw.model.familiar import store
from thaw.model.familiar.level import level_of, own_level
from thaw.model.familiar.store import Familiar
from thaw.model.given import Photo, each, upright
from thaw.model.prediction import Prediction, Similar, check_threshold, decide
from thaw.nets.backbone import Backbone
from thaw.nets.cut import cut
from thaw.nets.fit import Padded
from thaw.nets.fuse import fused
from thaw.nets.pretrained import build
from thaw.nets.state import unvouched
from thaw.runs.read import bundle, damage, read_json

ROOM = 50_000_000  # elements of a net beyond those of its file: a head that is put aside


class Model:
    """A trained classifier with all that it needs, as `thaw.load` returns it.

    Args:
        backbone: with the trained weights.
        info: the contents of `model.json`.
        familiar: what it keeps of its train photos.
    """

    def __init__(
        self, backbone: Backbone, info: dict[str, Any], familiar: Familiar | None = None
    ) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.info = info
        self.classes: list[str] = info["classes"]
        self.transforms = backbone.transforms
        self.temperature: float = info["temperature"]
        self.threshold: float | None = info["threshold"]
        self.conformal: list[float] | None = info.get("conformal")  # for prediction sets
        self.prior: list[float] | None = info.get("prior")  # what `data.balance` hid, see `decide`
        self.shift = torch.tensor(self.prior).log() if self.prior else 0.0
        self.familiar = familiar
        self.level = own_level(info) if familiar else None
        self.white: dict[str, float] = info.get("white", {})  # see `thaw.data.pixels.deep`

    def __repr__(self) -> str:
        return f"Model({self.backbone.origin['name']!r}, {len(self.classes)} classes)"

    def logits(self, images: list[Image.Image]) -> torch.Tensor:
        """Upright RGB photos → logits `[B, classes]`, before the temperature."""
        whole = torch.stack([pixels(self.transforms, image) for image in images])
        return self._outputs(whole, self.backbone)[0]

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return self.backbone.head.weight.device

    @torch.inference_mode()
    def _outputs(
        self, images: torch.Tensor, net: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and features of uint8 `pixels`, wherever the net is."""
        images = images.to(self.device).contiguous(memory_format=self.backbone.memory_format)
        with self.backbone.reading() as read:
            logits = net(normalised(self.transforms, images))
        return logits.cpu(), read[-1].cpu()

    def probabilities(self, images: list[Image.Image]) -> torch.Tensor:
        """Upright RGB photos → probabilities `[B, classes]`."""
        return (self.logits(images) / self.temperature + self.shift).softmax(dim=1)

    def outputs_of(
        self,
        photos: Photo | Iterable[Photo],
        batch_size: int = BATCH,
        on_broken: Callable[[BrokenPhoto], None] | None = None,
    ) -> Iterator[tuple[list[Path | str], torch.Tensor, torch.Tensor]]:
        """Names of photos, their logits `[B, classes]` and features `[B, D]`, a batch at a time.

        Of more than a batch they come from fused convolutions, so last bits may differ from those
        of a photo alone.

        Args:
            photos: as those of `predict`, likewise `on_broken`.
        """
        one_by_one = Lock()  # images in memory may be read from a file as they are asked for

        def load(item: tuple[Path | str, Photo]) -> torch.Tensor:
            name, photo = item
            with nullcontext() if isinstance(photo, str | Path) else one_by_one:
                whole = upright(photo, name, self.white)
            return pixels(self.transforms, whole)

        def broke(_: tuple[Path | str, Photo], error: BrokenPhoto) -> None:
            if on_broken is None:
                raise error
            on_broken(error)

        rest = each(photos)
        first = list(islice(rest, batch_size + 1))
        net = self._fast() if len(first) > batch_size else self.backbone
        for items, images in stacked(chain(first, rest), load, batch_size, broke):
            yield [name for name, _ in items], *self._outputs(images, net)

    def _fast(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The net for many photos: fused up to the head, where it can be cut there."""
        here = cut(self.backbone, ["head"]) if self.device.type == "cpu" else None
        if here is None:
            return self.backbone
        prefix, tail = fused(here.between()), here.tails[False]
        return lambda images: tail(prefix(images))

    def embed(self, photos: Photo | Iterable[Photo]) -> np.ndarray:
        """Photos, as those of `predict` → what the head reads of each: `[N, D]`, float32.

        Raises:
            UserError: something given is no photo.
            BrokenPhoto: a photo can't be decoded.
        """
        every = [features for _, _, features in self.outputs_of(photos)]
        return torch.cat([torch.empty(0, self.backbone.in_features), *every]).numpy()

    def predict(
        self,
        photos: Photo | Iterable[Photo],
        threshold: float | None = None,
        batch_size: int = BATCH,
        on_broken: Callable[[BrokenPhoto], None] | None = None,
        level: float | None = None,
        similar: int = 0,
    ) -> Iterator[Prediction]:
        """Say of each photo what it shows, once for each and in their order, a batch at a time.

        Args:
            photos: one or more of: a path, a folder (all photos below it), a PIL image, an array of
                NumPy, uint8 `[H, W, 3]` (RGB) or `[H, W]`. What isn't a path is called "photo 0",
                "photo 1", … by its place.
            threshold: confidence below which the label is "unsure"; the bundle's own if None.
            on_broken: told of a photo that can't be decoded, which is then left out.
            level: share of photos like val's that may be called unfamiliar; the bundle's own if
                None, and at 0 none is.
            similar: how many of the nearest train photos each prediction is to hold.

        Raises:
            UserError: something given is no photo, the threshold isn't between 0 and 1, or the
                batch size isn't a whole number from 1.
            BrokenPhoto: a photo can't be decoded, and `on_broken` is None.
            UserError: val can't promise that level, or the bundle keeps no train photos.
        """
        check_threshold(threshold)
        threshold = self.threshold if threshold is None else threshold
        level = level_of(self, level)
        if similar and self.familiar is None:
            raise UserError("This model keeps none of its train photos, so none can be shown.")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"Expected batch_size to be a whole number from 1, got {batch_size!r}.")
        batches = self.outputs_of(photos, batch_size, on_broken)
        return (
            prediction
            for names, logits, features in batches
            for prediction in self._decided(names, logits, features, threshold, level, similar)
        )

    def label(self, image: Image.Image, name: str, similar: int = 0) -> Prediction:
        """Say of an upright RGB photo what it shows; as `predict`, which reads files."""
        outputs = self._outputs(pixels(self.transforms, image)[None], self.backbone)
        return next(self._decided([name], *outputs, self.threshold, self.level, similar))

    @torch.inference_mode()
    def _decided(
        self,
        names: Sequence[Path | str],
        logits: torch.Tensor,
        features: torch.Tensor,
        threshold: float | None,
        level: float | None,
        similar: int,
    ) -> Iterator[Prediction]:
        rows = (logits / self.temperature + self.shift).softmax(dim=1).tolist()
        p: list[float | None] = [None] * len(rows)
        near: list[list[Similar]] = [[] for _ in rows]
        if self.familiar and level is not None:
            p = self.familiar.familiarity(features).tolist()
        if self.familiar and similar:
            near = self.familiar.nearest(features, similar, self.classes)
        for name, row, familiarity, like in zip(names, rows, p, near, strict=True):
            told = (threshold, self.prior, familiarity, level, like)
            yield decide(name, self.classes, row, *told)


def save(
    folder: Path,
    backbone: Backbone,
    classes: list[str],
    familiar: Familiar | None = None,
    **facts: Any,
) -> int:
    """Write a bundle and return its size in bytes.

    `model.json` comes last, so a folder without it is no bundle.

    Args:
        familiar: what it is to keep of its train photos.
        facts: further plain values for `model.json`, such as metrics and the data's digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in backbone.net.state_dict().items()}
    weights = folder / "weights.safetensors"
    write_tensors(weights, tensors)
    (folder / store.FILE).unlink(missing_ok=True)
    if familiar is not None:
        familiar.save(folder)
        facts["unfamiliar"] = familiar.facts() | {"sha256": _sha256(folder / store.FILE)}
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
    file = bundle(path) / "model.json"
    write_json(file, read_json(file) | values)


def load(path: str | os.PathLike[str], net: Callable[..., Any] | None = None) -> Model:
    """Rebuild the model of a bundle, or of a run folder's `model/`; no network, no pickle.

    Args:
        net: your own function or class that made the net, where it is of no library: a bundle is
            data, and can't bring that code.

    Raises:
        UserError: there is no bundle, it is of a later format, it is damaged, it describes what
            Thaw doesn't build, or its net is made by code that `net` doesn't name.
    """
    folder = bundle(path)
    file, weights = folder / "model.json", folder / "weights.safetensors"
    info = read_json(file)
    with damage(file):
        version = info.get("format") if isinstance(info, dict) else None
        if isinstance(version, int) and version != FORMAT:
            raise UserError(f"{file} has format {version}, this Thaw reads {FORMAT}; update one.")
        description.check(info)
    if _sha256(weights) != info["weights_sha256"]:
        raise UserError(
            f"{weights} isn't what {file} was written with (its sha256 differs); copy the bundle"
            " again."
        )
    backbone = _build(file, info, weights.stat().st_size, net)
    unvouched.fill(backbone, weights, file)
    unvouched.try_out(backbone, file)
    return Model(backbone, info, _familiar(folder, info, backbone))


def _familiar(folder: Path, info: dict[str, Any], backbone: Backbone) -> Familiar | None:
    """What the bundle keeps of its train photos; None where its model.json doesn't say any."""
    if not info.get("unfamiliar"):
        return None
    file = folder / store.FILE
    if not file.is_file() or _sha256(file) != info["unfamiliar"]["sha256"]:
        raise UserError(
            f"{file} isn't what {folder / 'model.json'} was written with; copy the bundle again."
        )
    return store.load(file, backbone.in_features, len(info["classes"]))


def _build(file: Path, info: dict[str, Any], size: int, net: Callable[..., Any] | None) -> Backbone:
    """The net that `model.json` describes, which is about as large as its file of weights."""
    try:
        with unvouched.Bounded(size + ROOM):
            made = build(info["arch"], net)
            backbone = Backbone(made, _transforms(info["transforms"]), info["arch"])
            backbone.reset_head(len(info["classes"]))
    except UserError as error:
        if info["arch"].get("of", info["arch"])["source"] == "own":
            raise  # it says what the user's code needs
        raise UserError(f"{file} is damaged (arch: {str(error).rstrip('.')}).") from error
    except Exception as error:  # whatever a library says of arguments that don't fit
        reason = escape.printable(f"{type(error).__name__}: {error}"[:200])
        raise UserError(f"{file} is damaged (arch: {reason}).") from error
    return backbone


def describe_transforms(transforms: ImageClassification) -> dict[str, Any]:
    """Plain values that say all about them."""
    keys = ("resize_size", "crop_size", "mean", "std", "antialias")
    values = {key: getattr(transforms, key) for key in keys}
    values |= {"interpolation": transforms.interpolation.value}
    return values | ({"pad": True} if isinstance(transforms, Padded) else {})


def _transforms(values: dict[str, Any]) -> ImageClassification:
    kind = Padded if values.get("pad") else ImageClassification
    transforms = kind(
        crop_size=values["crop_size"][0],
        mean=values["mean"],
        std=values["std"],
        interpolation=InterpolationMode(values["interpolation"]),
        antialias=values["antialias"],
    )
    transforms.resize_size = values["resize_size"]  # one number, or two where it isn't square
    return transforms


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
