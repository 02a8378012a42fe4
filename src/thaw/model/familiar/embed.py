"""Features of photos, for programs of one's own: what the head reads of each, in a file."""

import importlib.util
from pathlib import Path

import numpy as np

from thaw.data.find import find_and_tell
from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.escape import utf8
from thaw.files import beside, reserve, write_csv
from thaw.model.predict import load_model
from thaw.screen import say


def embed(run: Path, photos: list[Path], output: Path) -> np.ndarray:
    """Write features `[N, D]` (float32) of photos, and return them.

    Args:
        output: a .npy file, beside which a .csv names the photo of each row; or a .parquet file
            with the columns `path` and `features`.

    Raises:
        UserError: the file can't be written, no bundle, no photos; or, after the others were
            written, photos that can't be decoded.
    """
    if output.suffix not in (".npy", ".parquet"):
        raise UserError(f"Expected --output to end in .npy or .parquet, got {output}.")
    if not output.absolute().parent.is_dir():
        raise UserError(f"Expected a folder that exists in --output {output}.")
    if output.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise UserError(
            "Parquet files are written by pyarrow, which is missing: pip install"
            ' "thaw-vision[parquet]", or write a .npy.'
        )
    if run.suffix == ".onnx":
        raise UserError("Features are those of a run or a bundle; an ONNX file tells none.")
    paths = find_and_tell(photos)
    model, broken = load_model(run), list[BrokenPhoto]()
    names: list[str] = []
    parts: list[np.ndarray] = []
    for batch, _, features in model.outputs_of(paths, on_broken=broken.append):
        names += map(str, batch)
        parts.append(features.numpy())
    if not parts:
        raise broken[0]
    rows = np.concatenate(parts).astype(np.float32)
    with beside(output) as partial:
        if output.suffix == ".npy":
            with partial.open("r+b") as file:
                reserve(file, rows.nbytes)  # NumPy doesn't say that a disk is full
                np.save(file, rows)
                file.truncate()
            write_csv(output.with_suffix(".csv"), [{"path": name} for name in names])
        else:
            _write_parquet(partial, names, rows)
    say(f"{output}: {len(rows):,} photos, {rows.shape[1]:,} features each")
    if broken:
        raise UserError("\n".join(map(str, broken)))
    return rows


def _write_parquet(file: Path, names: list[str], rows: np.ndarray) -> None:
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(rows.ravel())
    features = pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    table = pyarrow.table({"path": [utf8(name) for name in names], "features": features})
    parquet.write_table(table, file)
