"""Measurements, each a process of its own that is timed from without and from within."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

THAW = ("-P", "-m", "thaw")  # -P: not what lies in the working directory
OFF = {  # row parts: Thaw as it comes, and without one of the parts that make it fast
    "all on": [],
    "fuse=false": ["trainer.fuse=false"],
    "channels_last=false": ["trainer.channels_last=false"],
    "keep_memory=false": ["trainer.keep_memory=false"],
    "precision=32-true": ["trainer.precision=32-true"],
    "all off": [
        "trainer.fuse=false",
        "trainer.channels_last=false",
        "trainer.keep_memory=false",
        "trainer.precision=32-true",
    ],
}
OF_THAW = ("thaw", "warm", "few", "many", *OFF)  # they import the same
ROWS = {
    "head": ("lesson", "lightning", "thaw", "warm", "limit"),
    "head25": ("lesson", "lightning", "thaw", "limit"),
    "last_block": ("lesson", "thaw"),
    "full": ("lesson", "thaw"),
    "parts": (*OFF,),
    "sweep": ("thaw", "sweep"),
    "predict": ("bare", "photo", "folder"),
    "photos": ("pass", "predicted", "evaluated"),
    "unfamiliar": ("telling", "without"),
    "check": ("thaw", "features", "check"),
    "folds": ("thaw", "folds"),
    "memory": ("few", "many"),
}

Result = dict[str, Any]


@dataclass
class Bench:
    """Starts a process for each measurement, and keeps what several of them need.

    Args:
        roots: folders of photos: `data`, and `few` and `many` for row memory.
        env: of the processes.
        scratch: an empty folder.
        device: `cpu` or `cuda`.
    """

    roots: dict[str, Path]
    sizes: dict[str, Any]
    env: dict[str, str]
    scratch: Path
    device: str = "cpu"
    kept: dict[tuple[str, int], Result] = field(default_factory=dict)  # row head's, for head25
    cache: Path | None = None  # the last cold run's, for the warm one
    model: Path | None = None  # a run, for rows predict, photos and unfamiliar

    def measure(self, row: str, system: str, repeat: int) -> Result:
        """Seconds after the imports and of the `whole` process, peak `rss` in bytes, accuracy.

        Raises:
            RuntimeError: the process failed, or its accuracy shows that it didn't do its work.
        """
        about = {"row": row, "system": system, "repeat": repeat}
        if row == "predict":
            return about | self.predict(system)
        if row == "head25" and system in ("lesson", "lightning"):  # its epochs are all alike
            result = self.kept.get((system, repeat)) or self.train("head", system)[0]
            rest = (self.sizes["long"] / self.sizes["head"] - 1) * sum(result["epochs"])
            more = {key: result[key] + rest for key in ("seconds", "whole")}
            return about | result | more | {"scaled": True}
        result, folder = self.train(row, system)
        if (row, system) == ("head", "thaw"):
            self.cache = folder / "cache"
        if row == "head":
            self.kept[system, repeat] = result
        shutil.rmtree(folder / "run", ignore_errors=True)
        return about | result

    def train(self, row: str, system: str) -> tuple[Result, Path]:
        """What came out, and the folder of `run/` and `cache/`."""
        model = self.trained() if row in ("photos", "unfamiliar") else None
        root = self.roots[system if row == "memory" else "data"]
        imports = self.scratch / f"{f'thaw-{row}' if system in OF_THAW else system}.json"
        job = {"data": root, "test": "val" if (root / "val").is_dir() else "test"}
        job |= {"device": self.device, "model": model}

        def run(sizes: dict[str, Any]) -> tuple[Result, Path]:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            cache = self.cache if system == "warm" else folder / "cache"
            own = {"sizes": sizes, "imports": imports, "run": folder / "run", "cache": cache}
            own |= {"off": OFF.get(system, [])}
            told = json.dumps(job | own, default=str)
            return self.timed(*THAW, "benchmark", "--one", system, row, told), folder

        if not imports.exists():  # a first, short one tells what is imported, and warms the disk
            run(self.sizes | {"head": 1, "long": 1, "last": 1, "rates": 2})
        result, folder = run(self.sizes)
        classes = [*(root / "train").glob("*/")]
        if not result.get("acc", 1) > 1 / len(classes):  # nan too
            raise RuntimeError(
                f"{system} got {result['acc']:.1%} of the test photos right in row {row}, which is"
                f" no better than chance with {len(classes)} classes; its seconds mean nothing."
            )
        return result, folder

    def predict(self, system: str) -> Result:
        """Label a photo, or all; or only start Python and import what that needs at least."""
        from thaw.data.find import find_photos

        model = self.trained()
        if system == "bare":
            result = self.timed("-c", "import torch, torchvision")
            metrics = json.loads((model / "metrics.json").read_text(encoding="utf-8"))
            return result | {"seconds": result["whole"] + metrics["model/latency_ms"] / 1000}
        photos = find_photos([self.roots["data"]])
        place = photos[0] if system == "photo" else self.roots["data"]
        result = self.timed(*THAW, "predict", model, place)
        rate = len(photos) / result["whole"]
        return result | {"seconds": result["whole"], "photos": len(photos), "rate": rate}

    def trained(self) -> Path:
        """A run whose model labels photos."""
        if self.model is None:
            self.model = self.train("head", "thaw")[1] / "run"
        return self.model

    def timed(self, *arguments: str | Path) -> Result:
        """Run Python with these arguments."""
        command = [sys.executable, *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=out, stderr=err, env=self.env)
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                process.wait()
                raise
            whole = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            for file in (out, err):
                file.seek(0)
            last, complaint = out.read().rstrip().rpartition("\n")[2], err.read()[-4000:]
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{complaint}")
        rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"whole": whole, "rss": rss} | (json.loads(last) if last.startswith("{") else {})
