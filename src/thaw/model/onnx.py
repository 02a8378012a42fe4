"""An exported ONNX file as a model that predicts, without torch."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.escape import printable
from thaw.model.description import EXPORTED
from thaw.model.familiar.level import level_of, own_level
from thaw.model.given import Photo, each, upright
from thaw.model.prediction import Prediction, check_threshold, decide
from thaw.runs.read import damage
from thaw.runs.schema import Wrong, bounded

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KEYS = ("classes", "threshold", "temperature")
FAMILIARITY = "familiarity"  # the name of the second output
MOST_PIXELS = 50_000_000  # that a graph is given of a photo
INSTALL = 'pip install "thaw-vision[export]"'


def as_input(image: Image.Image) -> np.ndarray:
    """An upright RGB photo as an exported file takes it, uint8 `[1, H, W, 3]`.

    The graph resizes whole photos, for which it takes 23 bytes a pixel, so squares of a very large
    one are averaged before.
    """
    squares = math.ceil(math.sqrt(image.width * image.height / MOST_PIXELS))
    return np.asarray(image.reduce(squares) if squares > 1 else image)[None]


class OnnxModel:
    """What `thaw export` wrote; labels photos as the model that it was exported from.

    Args:
        session: takes uint8 RGB photos `[B, H, W, 3]`, gives probabilities `[B, classes]`.
        info: the file's metadata: the contents of `model.json`, and the version of Thaw.
    """

    def __init__(self, session: "InferenceSession", info: dict[str, Any]) -> None:
        self.session, self.info = session, info
        self.classes: list[str] = info["classes"]
        self.temperature: float = info["temperature"]  # applied within the graph
        self.threshold: float | None = info["threshold"]
        self.conformal: list[float] | None = info.get("conformal")  # for prediction sets
        self.prior: list[float] | None = info.get("prior")
        outputs = [output.name for output in session.get_outputs()]
        self.level = own_level(info) if FAMILIARITY in outputs else None
        self.white: dict[str, float] = info.get("white", {})  # see `thaw.data.pixels.deep`

    def probabilities(self, images: list[Image.Image]) -> np.ndarray:
        """Upright RGB photos of one size → probabilities `[B, classes]`."""
        return self._run(images)[0]

    def _run(self, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities `[B, classes]` and familiarity `[B]`, where the file tells it."""
        batch = np.concatenate([as_input(image) for image in images])
        try:
            rows, *more = map(np.asarray, self.session.run(None, {"images": batch}))
        except Exception as error:  # a class of its own for every reason
            reason = printable(" ".join(str(error).split())[:200])
            raise UserError(f"The ONNX file can't be run on this photo: {reason}.") from error
        if rows.shape != (len(batch), len(self.classes)):
            raise UserError(f"The ONNX file gives {rows.shape} for {len(self.classes)} classes.")
        if self.level is None and not more:
            return rows, None
        if len(more) != 1 or more[0].shape != (len(batch),):
            raise UserError(
                f"The ONNX file gives a familiarity for other than {len(batch)} photos."
            )
        return rows, more[0]

    def predict(
        self,
        photos: Photo | Iterable[Photo],
        threshold: float | None = None,
        on_broken: Callable[[BrokenPhoto], None] | None = None,
        level: float | None = None,
        similar: int = 0,
    ) -> Iterator[Prediction]:
        """Say of each photo what it shows, one after another, since their sizes differ.

        Args:
            photos: as those of `thaw.model.bundle.Model.predict`.
            threshold: confidence below which the label is "unsure"; the file's own if None.
            on_broken: told of a photo that can't be decoded, which is then left out.
            level: share of photos like val's that may be called unfamiliar; the file's own if None,
                and at 0 none is.
            similar: 0, since the file holds no train photos.

        Raises:
            BrokenPhoto: a photo can't be decoded, and `on_broken` is None.
            UserError: val can't promise that level.
        """
        check_threshold(threshold)
        if similar:
            raise UserError("An ONNX file names no train photos; similar ones take the bundle.")
        if level and self.level is None:
            raise UserError("This ONNX file doesn't tell what is unfamiliar, so it takes no level.")
        threshold = self.threshold if threshold is None else threshold
        return self._predict(each(photos), threshold, on_broken, level_of(self, level))

    def _predict(
        self,
        photos: Iterable[tuple[Path | str, Photo]],
        threshold: float | None,
        on_broken: Callable[[BrokenPhoto], None] | None,
        level: float | None,
    ) -> Iterator[Prediction]:
        for name, photo in photos:
            try:
                image = upright(photo, name, self.white)
            except BrokenPhoto as error:
                if on_broken is None:
                    raise
                on_broken(error)
                continue
            yield self._decided(image, name, threshold, level)

    def label(self, image: Image.Image, name: str, similar: int = 0) -> Prediction:
        """Say of an upright RGB photo what it shows; as `predict`, which reads files."""
        return self._decided(image, name, self.threshold, self.level)

    def _decided(
        self, image: Image.Image, name: Path | str, threshold: float | None, level: float | None
    ) -> Prediction:
        rows, p = self._run([image])
        familiarity = None if p is None or level is None else float(p[0])
        found = (rows[0].tolist(), threshold, self.prior, familiarity, level)
        return decide(name, self.classes, *found)


def load(path: Path | str) -> OnnxModel:
    """Open an ONNX file that `thaw export` wrote; onnxruntime runs it, on the CPU.

    Raises:
        UserError: there is no such file, it isn't Thaw's, or onnxruntime isn't installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX files are run by onnxruntime, which is missing: {INSTALL}."
        ) from error
    if not Path(path).is_file():
        raise UserError(f"Expected an ONNX file in {path}, but there is none.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what the exporter left unused
    options.enable_cpu_mem_arena = False  # or it would keep what the largest photo needed
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # a class of its own for every reason
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Expected an ONNX file in {path}, but it can't be opened: {reason}"
        ) from error
    if not all(key in metadata for key in KEYS):
        raise UserError(
            f"Expected an ONNX file that thaw export wrote, but {path} lacks the metadata"
            f" {[key for key in KEYS if key not in metadata]}."
        )
    with damage(Path(path)):
        info = {key: json.loads(value) for key, value in metadata.items()}
        bounded(info)
        EXPORTED(info)
        outputs = session.get_outputs()
        dims = [len(place.shape) for place in outputs]
        known = dims == [2] or (dims == [2, 1] and outputs[1].name == FAMILIARITY)
        takes = [(place.name, place.type) for place in session.get_inputs()]
        if takes != [("images", "tensor(uint8)")] or not known:
            raise Wrong("its graph isn't one from photos to probabilities")
        classes = outputs[0].shape[1]
        if classes not in (len(info["classes"]), None) and isinstance(classes, int):
            raise Wrong(f"it names {len(info['classes'])} classes, and its graph {classes}")
    return OnnxModel(session, info)
