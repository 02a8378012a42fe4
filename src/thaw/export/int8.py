"""An exported graph with 8-bit weights and activations: a quarter of the size."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from thaw.data.photos import load_photo
from thaw.data.pixels.deep import White
from thaw.model.familiar.store import Familiar, distance, to_others
from thaw.model.onnx import as_input

LAYERS = ("Conv", "Gemm", "MatMul")  # that have weights
MOST = 500  # photos to calibrate on: more hardly move the ranges


class Calibration(CalibrationDataReader):
    """Photos, one after another, as the graph takes them."""

    def __init__(self, photos: Sequence[Path], white: White) -> None:
        self.white = white
        self.photos: Iterator[Path] = iter(photos[:: -(-len(photos) // MOST)])

    def get_next(self) -> dict[str, Any]:
        """The next photo `[1, H, W, 3]`; empty after the last."""
        photo = next(self.photos, None)
        return {} if photo is None else {"images": as_input(load_photo(photo, self.white))}


def quantize(
    source: Path, target: Path, net: Sequence[str], photos: Sequence[Path], white: White
) -> None:
    """Write `source` with its net in 8 bits (static, QDQ, a scale for each channel's weights).

    Weights use 7 of the 8 bits: without VNNI instructions, x86 CPUs would else saturate on sums of
    two products. The first and the last layer keep their floats (as in DoReFa-Net, Zhou
    et al. 2016): they are small, and rounding harms most there. The steps around the net stay as
    they are.

    Args:
        net: names of the net's nodes.
        photos: that the ranges of activations are taken from.
        white: of photos of more than 8 bits.
    """
    onnxruntime.set_default_logger_severity(3)  # errors
    model = onnx.load(source)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    layers = [n.name for n in model.graph.node if n.op_type in LAYERS and n.name in net]
    ends = (layers[0], layers[-1])
    add_pre_process_metadata(model)  # the exporter has folded BatchNorm into convolutions
    quantize_static(
        model,
        target,
        Calibration(photos, white),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=[name for name in net if name not in ends],
    )
    small = onnx.load(target)
    onnx.helper.set_model_props(small, facts)  # without what onnxruntime noted there
    onnx.save(small, target)


def calibrate(
    whole: Path,
    file: Path,
    familiar: Familiar,
    val: Sequence[Path],
    known: Sequence[Path],
    white: White,
) -> None:
    """Put in place of the bundle's distances those that the quantized net has.

    Rounding moves features, so that by the float net's distances more photos would be unfamiliar
    than is promised. A model of all photos has no val: its distances are moved by as much as those
    among its train photos move.

    Args:
        whole: the graph before it was quantized.
        known: the train photos that the bundle keeps.
    """
    keys = torch.tensor(familiar.alike or _keys(familiar.contents or familiar.photos))
    if val:
        found = [distance(_likeness(file, val, white))]
        if familiar.alike:
            found.append(to_others(_likeness(file, known, white), keys))
        fresh = familiar.judged_by(torch.cat(found)).scores
    else:
        some = known[:MOST]
        now, before = (
            to_others(_likeness(graph, some, white)[:, : len(some)], keys[: len(some)])
            for graph in (file, whole)
        )
        fresh = familiar.scores + (now - before).mean()
    model = onnx.load(file)
    scores = next(t for t in model.graph.initializer if t.name.endswith("familiarity.scores"))
    scores.CopyFrom(onnx.numpy_helper.from_array(fresh.numpy(), scores.name))
    onnx.save(model, file)


def _keys(contents: Sequence[str]) -> list[int]:
    """The same for copies of a photo."""
    first = {content: i for i, content in reversed([*enumerate(contents)])}
    return [first[content] for content in contents]


def _likeness(file: Path, photos: Sequence[Path], white: White) -> torch.Tensor:
    """What a graph says of photos: cosines to each train photo that is kept, `[N, M]`."""
    model = onnx.load(file)
    *_, nearest = (node for node in model.graph.node if node.op_type == "TopK")
    likeness = nearest.input[0]
    kind = onnx.helper.make_tensor_value_info(likeness, onnx.TensorProto.FLOAT, None)
    model.graph.output.append(kind)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = (as_input(load_photo(photo, white)) for photo in photos)
    rows = [np.asarray(session.run([likeness], {"images": i})[0]) for i in images]
    return torch.from_numpy(np.concatenate(rows)).float()
