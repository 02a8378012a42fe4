"""Label more photos than one machine should: on the machines of a Ray cluster, by Ray Data.

Each worker holds the model, and answers for some photos at a time. A worker that dies is started
again, and what it had not answered yet is asked once more.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thaw.data.find import LeftOut, counted, find_photos
from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.launch import cli
from thaw.model import batch
from thaw.model.predict import cutoff_of, load_model
from thaw.model.prediction import Prediction
from thaw.screen import say

AT_ONCE = 64  # photos that a worker is asked for


def predict(
    run: Path,
    photos: list[Path],
    output: Path,
    threshold: float | None = None,
    coverage: float | None = None,
    level: float | None = None,
    workers: int | None = None,
) -> None:
    """Write the rows of `thaw.model.predict.predict` into `output`/predictions.csv.

    Args:
        output: a folder; photos that can't be decoded are listed in it as well.
        workers: as many as the cluster has GPUs, or else CPUs, if None.

    The cluster is that of RAY_ADDRESS, or one that is started on this machine. All its machines see
    `run` and the photos under the same paths.

    Raises:
        UserError: Ray is missing, or as `thaw.model.predict.predict` does.
    """
    left_out: list[LeftOut] = []
    paths = find_photos(photos, left_out)
    if left_out:
        say(f"left out: {counted(left_out)}")
    model, broken = load_model(run), list[BrokenPhoto]()
    model.predict([], threshold, level=level)  # says what can't be, before anything is started
    cutoff = None if coverage is None else cutoff_of(model, run, coverage)
    told = labelled(run.resolve(), paths, {"threshold": threshold, "level": level}, workers, broken)
    batch.write(told, output / "predictions.csv", len(paths), broken, cutoff)


def labelled(
    run: Path,
    paths: list[Path],
    how: dict[str, Any],
    workers: int | None,
    broken: list[BrokenPhoto],
) -> Iterator[Prediction]:
    """Predictions as they come, in the order of the photos; those that break go to `broken`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of it
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.data import (  # pyright: ignore[reportMissingImports]
            ActorPoolStrategy,
            DataContext,
            from_items,
        )
    except ImportError as error:
        raise UserError(
            'Ray is missing: pip install "thaw-vision[ray]", or leave --engine out.'
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    workers = workers or gpus or max(1, int(there["CPU"]))
    context = DataContext.get_current()
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would tell of plans and its bars
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # As JSON, which is ASCII: a path may hold bytes that are no text.
    names = {str(path.absolute()): str(path) for path in paths}
    asked = [{"path": json.dumps(str(path.absolute()))} for path in paths]
    answers = from_items(asked, override_num_blocks=-(-len(asked) // AT_ONCE)).map_batches(
        Worker,
        fn_constructor_args=(run, how, [*cli.trusted]),
        batch_size=AT_ONCE,
        compute=ActorPoolStrategy(size=workers),
        num_gpus=min(1, gpus),
    )
    for row in answers.iter_rows():
        answer = json.loads(row["answer"])
        path = names[answer.pop("path")]
        if "reason" in answer:
            broken.append(BrokenPhoto(path, answer["reason"]))
        else:
            yield Prediction(path, **answer)


class Worker:
    """Labels photos by their paths, in a process of its own, maybe on another machine."""

    def __init__(self, run: Path, how: dict[str, Any], trusted: Iterable[str] = ()) -> None:
        cli.trusted.update(trusted)  # what the user named to the command, in its own process
        self.model, self.how = load_model(run), how

    def __call__(self, asked: dict[str, Any]) -> dict[str, list[str]]:
        """`{path: [B]}` → `{answer: [B]}`, as JSON."""
        paths, broken = [json.loads(path) for path in asked["path"]], list[BrokenPhoto]()
        found = [asdict(p) for p in self.model.predict(paths, on_broken=broken.append, **self.how)]
        found += [{"path": str(error.path), "reason": error.reason} for error in broken]
        return {"answer": [json.dumps(answer) for answer in found]}
