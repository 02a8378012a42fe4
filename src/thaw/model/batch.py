"""Label photos by the thousand: their rows go to a file as they come, so memory doesn't grow."""

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.escape import joined, utf8
from thaw.files import beside, csv_text, write_csv
from thaw.model import unsure
from thaw.model.prediction import Prediction, as_row
from thaw.screen import say, steps

CHUNK = 500  # rows that are written together
Write = Callable[[list[dict[str, Any]]], Any]


def check(output: Path) -> None:
    """Raise UserError unless a file of this name can be written."""
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(f"Expected --output to end in .csv or .parquet, got {output}.")
    if output.suffix == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise UserError(
            "Parquet files are written by pyarrow, which is missing: pip install"
            ' "thaw-vision[parquet]", or write a .csv.'
        )


def write(
    predictions: Iterable[Prediction],
    output: Path,
    total: int,
    broken: list[BrokenPhoto],
    cutoff: float | None = None,
) -> None:
    """Write a row a photo to a .csv or .parquet file, which appears when all are in it.

    Args:
        predictions: in whose course `broken` is filled.
        total: photos, for the progress bar.
        broken: go to a file of their own beside `output`, with what is wrong with each.
        cutoff: from which probability on a label belongs to a photo's set; None for no sets.

    Raises:
        UserError: no photo could be decoded; or, after the others were written, some could not.
    """
    start, labels = time.monotonic(), Counter[str]()
    rows = iter(steps(predictions, "labelling", total))
    first = next(rows, None)
    if first is None:
        raise broken[0]
    with beside(output) as partial, _open(partial, output.suffix) as put:
        rows = chain([first], rows)
        while chunk := list(islice(rows, CHUNK)):
            labels.update(prediction.label for prediction in chunk)
            put([_row(prediction, cutoff) for prediction in chunk])
    speed = total / (time.monotonic() - start)
    counts = ", ".join(f"{count:,} {label}" for label, count in labels.most_common())
    say(f"{output}: {labels.total():,} photos ({counts}), {speed:.0f} a second")
    report = output.with_suffix(".broken.csv")
    report.unlink(missing_ok=True)  # of an earlier time
    if broken:
        write_csv(report, [{"path": str(b.path), "reason": b.reason} for b in broken])
        raise UserError(
            f"{len(broken):,} of {total:,} photos can't be decoded; {report} names them and says"
            " why, all others are labelled."
        )


def _row(prediction: Prediction, cutoff: float | None) -> dict[str, Any]:
    row = as_row(prediction)
    if cutoff is not None:
        row["labels"] = joined(unsure.label_set(prediction.probabilities, cutoff))
    return row


def _utf8(row: dict[str, Any]) -> dict[str, Any]:
    return {utf8(k): utf8(v) if isinstance(v, str) else v for k, v in row.items()}


@contextmanager
def _open(path: Path, kind: str) -> Iterator[Write]:
    """What adds rows to a file of this kind; the first ones say which columns there are."""
    if kind == ".csv":
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:

            def put(rows: list[dict[str, Any]]) -> None:
                file.write(csv_text(rows, header=not file.tell()))

            yield put
        return
    import pyarrow
    from pyarrow import parquet

    opened: list[parquet.ParquetWriter] = []

    def put_table(rows: list[dict[str, Any]]) -> None:
        table = pyarrow.Table.from_pylist([_utf8(row) for row in rows])
        at = table.schema.get_field_index("familiarity")
        if pyarrow.types.is_null(table.schema.field(at).type):  # where the model can't tell
            table = table.set_column(at, "familiarity", table[at].cast(pyarrow.float64()))
        if not opened:
            opened.append(parquet.ParquetWriter(path, table.schema))
        opened[0].write_table(table)

    try:
        yield put_table
    finally:
        for file in opened:
            file.close()
