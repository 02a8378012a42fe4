"""What training costs, side by side: thaw benchmark [--rows head sweep] [--quick]

Every measurement is a process of its own, and systems take turns. Thaw's rivals have the same net,
weights and photos: the loop that the lesson teaches, a plain Lightning module, and the limit, which
is one bare pass over the photos at the best settings and the head's arithmetic on what came out.
"""

import argparse
import csv
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from thaw import files
from thaw.errors import UserError
from thaw.launch import conf

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
    "memory": ("few", "many"),
}
SYSTEMS = {  # column, colour
    "lesson": ("lesson's loop", "#c8553d"),
    "lightning": ("Lightning", "0.45"),
    "thaw": ("Thaw, cold", "#1f5a8a"),
    "warm": ("Thaw, warm", "#7fa8c9"),
    "limit": ("limit", "0.8"),
}
LINES = (  # row, what of it, label
    ("head", "seconds", "head, {head} epochs"),
    ("head", "whole", "the same, whole process"),
    ("head25", "seconds", "head, {long} epochs"),
    ("last_block", "seconds", "last block, {last} epochs"),
    ("full", "seconds", "whole net, 1 epoch"),
    ("head", "acc", "test accuracy"),
    ("head", "rss", "peak memory"),
)
PAIRS = (  # row, what of it, system, what it is compared with, label
    ("head", "seconds", "thaw", "limit", "a cold run : the limit"),
    ("sweep", "seconds", "sweep", "thaw", "a cold sweep of {rates} learning rates : one cold run"),
    ("sweep", "whole", "sweep", "thaw", "the same, whole processes"),
    ("predict", "seconds", "photo", "bare", "predict, one photo : import torch, run a net"),
    (
        "predict",
        "seconds",
        "folder",
        "photo",
        "predict, {photos:.0f} photos, {rate:.0f}/s : one",
    ),
    ("memory", "rss", "many", "few", "peak memory, {many_images:,} : {few_images:,} images"),
    ("memory", "seconds", "many", "few", "head, {many_images:,} : {few_images:,} images"),
)
NOTES = {  # row → what counts as what
    "head": "Seconds count from after the imports to the end of the test; the whole process is also"
    " Python's start, the imports, and all that Thaw reports and draws. × is how many times as fast"
    " as the loop. Cold and warm is Thaw's cache.",
    "head25": "Head, {long} epochs: of the loop and Lightning, {head} epochs scaled to {long}.",
    "last_block": "Last block: of the loop, its {last} epochs; of Thaw, all that fit and test took"
    " but the head's epochs, so frozen work counts as if no other phase had shared it. Thaw's val"
    " photos are the loop's test photos, so that the work is equal.",
    "full": "Whole net: an epoch with its val photos, which are the loop's test photos here too.",
    "parts": "Parts: Thaw with one of its settings in `trainer` changed, all else as it comes.",
    "predict": "predict: the whole process, and what a Python that imports torch and torchvision"
    " takes, with one forward pass.",
}
# Epochs, learning rates in a sweep, and photos a class (train, test) of data=shapes.
SIZES = {"head": 5, "long": 25, "last": 3, "rates": 20, "few": (80, 20), "many": (3200, 800)}
QUICK = {"head": 2, "long": 4, "last": 1, "rates": 3, "few": (8, 2), "many": (32, 8)}

Result = dict[str, Any]
Medians = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    """Read the arguments, measure, report."""
    parser = argparse.ArgumentParser(
        description="Measure seconds, memory and accuracy of Thaw, of the lesson's PyTorch loop, of"
        " plain Lightning, and of the least that the work can take, on this machine's CPU."
    )
    parser.add_argument(
        "--rows", nargs="+", default=[*ROWS], metavar="ROW", help=f"some of {', '.join(ROWS)}"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="medians are over N: 3")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="holds train/ and val/ (the test photos), a folder a class in each: data/hymenoptera,"
        " downloaded if it isn't there",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of each system: torch's choice")
    parser.add_argument("--out", type=Path, metavar="DIR", help="outputs/benchmark/DATE_TIME")
    parser.add_argument("--quick", action="store_true", help="a look: few epochs on few shapes")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a measurement's own process
    given = parser.parse_args()
    if given.one:
        return one(given.one[0], given.one[1], json.loads(given.one[2]))
    unknown = [row for row in given.rows if row not in ROWS]
    if unknown:
        raise UserError(f"Expected --rows to be some of {', '.join(ROWS)}, got {unknown}.")
    for name in ("repeats", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"expected --{name} to be a whole number from 1")
    rows = [row for row in ROWS if row in given.rows]
    sizes, repeats = (QUICK, given.repeats or 1) if given.quick else (SIZES, given.repeats or 3)
    roots: dict[str, Path] = {}
    if rows != ["memory"]:
        roots["data"] = draw(20, 8) if given.quick and not given.data else find_data(given.data)
    if "memory" in rows:
        roots |= {name: draw(*sizes[name]) for name in ROWS["memory"]}
    machine = describe_machine()
    env = {**os.environ, **({"OMP_NUM_THREADS": str(given.threads)} if given.threads else {})}
    out = given.out or Path("outputs", "benchmark", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    out.mkdir(parents=True, exist_ok=True)
    found: list[Result] = []
    # Beside the results, not in /tmp: that may be memory, and runs write to a disk.
    with files.scratch(out.with_name("scratch")) as scratch:
        bench = Bench(roots, sizes, env, scratch.resolve())
        for row in rows:
            for repeat in range(repeats):
                for system in ROWS[row]:
                    found.append(bench.measure(row, system, repeat))
                    print(progress(found[-1], repeats), flush=True)
            middle = medians(found)  # a benchmark that is cut short keeps its rows
            report = {"machine": machine, "sizes": sizes, "medians": middle, "measured": found}
            files.write_json(out / "benchmark.json", report)
            files.write(out / "benchmark.md", markdown(found, machine, sizes))
            draw_figure(out / "benchmark.png", middle, sizes)

    from rich import get_console
    from rich.markdown import Markdown

    get_console().print("", Markdown(markdown(found, machine, sizes)), "", str(out))


def find_data(root: Path | None) -> Path:
    """The folder of photos, downloaded unless the user named one."""
    if root is None:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        known = OmegaConf.load(conf.folder() / "data" / "hymenoptera.yaml")
        root = Path(known.root)
        instantiate(known.source)(root=root)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise UserError(f"Expected --data to be a folder that holds train and val, got {root}.")
    return root.resolve()


def draw(train: int, test: int) -> Path:
    """Draw so many photos a class where `data=shapes` looks for them."""
    from thaw.data import shapes

    root = Path("data", f"shapes_{train}_{test}")
    root.parent.mkdir(exist_ok=True)
    shapes.draw(root, train, test)
    return root.resolve()


def describe_machine() -> dict[str, Any]:
    """What else the seconds depend on."""
    name, cores = platform.processor() or platform.machine(), os.cpu_count() or 1
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        name = (found or [name])[0]
    load = round(os.getloadavg()[0], 2)
    if load > cores / 4:
        print(f"This machine has other work (load {load}), so all will take longer.")
    versions = {package: importlib.metadata.version(package) for package in ("torch", "lightning")}
    return {"cpu": name, "cores": cores, "load_before": load, **versions}


# --- measuring ------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Starts a process for each measurement, and keeps what several of them need.

    Args:
        roots: folders of photos: `data`, and `few` and `many` for row memory.
        env: of the processes.
        scratch: an empty folder.
    """

    roots: dict[str, Path]
    sizes: dict[str, Any]
    env: dict[str, str]
    scratch: Path
    kept: dict[tuple[str, int], Result] = field(default_factory=dict)  # row head's, for head25
    cache: Path | None = None  # the last cold run's, for the warm one
    model: Path | None = None  # a run, for row predict

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
        root = self.roots[system if row == "memory" else "data"]
        imports = self.scratch / f"{f'thaw-{row}' if system in OF_THAW else system}.json"
        job = {"data": root, "test": "val" if (root / "val").is_dir() else "test"}

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
        if not result["acc"] > 1 / len(classes):  # nan too
            raise RuntimeError(
                f"{system} got {result['acc']:.1%} of the test photos right in row {row}, which is"
                f" no better than chance with {len(classes)} classes; its seconds mean nothing."
            )
        return result, folder

    def predict(self, system: str) -> Result:
        """Label a photo, or all; or only start Python and import what that needs at least."""
        from thaw.data.find import find_photos

        if self.model is None:
            self.model = self.train("head", "thaw")[1] / "run"
        if system == "bare":
            result = self.timed("-c", "import torch, torchvision")
            metrics = json.loads((self.model / "metrics.json").read_text(encoding="utf-8"))
            return result | {"seconds": result["whole"] + metrics["model/latency_ms"] / 1000}
        photos = find_photos([self.roots["data"]])
        place = photos[0] if system == "photo" else self.roots["data"]
        result = self.timed(*THAW, "predict", self.model, place)
        rate = len(photos) / result["whole"]
        return result | {"seconds": result["whole"], "photos": len(photos), "rate": rate}

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


# --- what is measured, each in a process of its own -----------------------------------------------


def one(system: str, row: str, job: dict[str, Any]) -> None:
    """Import, do a job against the clock, and print what came out as a line of JSON."""
    run = {"lesson": lesson, "lightning": lightning, "limit": limit}.get(system, thaw)
    imports = Path(job["imports"])
    known = json.loads(imports.read_text(encoding="utf-8")) if imports.exists() else []
    for name in known:  # exactly what this job would import anyway, early or late
        with suppress(Exception):  # some only look like modules
            importlib.import_module(name)
    began = time.perf_counter()
    result = run(system if row == "sweep" else row, job)
    result = {"seconds": time.perf_counter() - began} | result
    if not known:
        files.write_json(imports, [*sys.modules])

    import torch

    print("\n" + json.dumps(result | {"threads": torch.get_num_threads()}))


def prepare(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The frozen net with its ImageNet weights; train and test photos as it wants to see them."""
    import timm
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    from thaw.nets.state.matching import in_order, load
    from thaw.nets.weights import PACKAGED, packaged

    torch.manual_seed(42)
    half, bicubic = (0.5, 0.5, 0.5), InterpolationMode.BICUBIC
    see = ImageClassification(crop_size=224, mean=half, std=half, interpolation=bicubic)
    train, test = (ImageFolder(Path(job["data"], name), see) for name in ("train", job["test"]))
    net = timm.create_model("tf_efficientnet_lite0")
    load(net, packaged(PACKAGED["tf_efficientnet_lite0"][0]), [in_order])
    return net.requires_grad_(False), train, test


def loaders(train: Any, test: Any) -> tuple[Any, Any]:
    """Batches of 32, shuffled for training; all else as torch has it."""
    from torch.utils.data import DataLoader

    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(test, batch_size=32)


def lesson(row: str, job: dict[str, Any]) -> Result:
    """The loop that is taught: each epoch decodes all photos, and runs the whole net on them.

    The net is in train mode, so BatchNorm's statistics move in frozen parts too.
    """
    import torch
    from torch import nn

    net, train, test = prepare(job)
    passes = tuple(zip(loaders(train, test), (True, False), strict=True))
    net.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, len(train.classes)))
    loss_fn = nn.CrossEntropyLoss()

    def fit(epochs: int, lr: float) -> Result:
        optimizer, seconds, right = torch.optim.Adam(net.parameters(), lr=lr), [], 0
        for _ in range(epochs):
            began = time.perf_counter()
            for loader, training in passes:
                net.train(training)
                total, right = 0.0, 0
                with torch.inference_mode(not training):
                    for images, labels in loader:
                        logits = net(images)
                        loss = loss_fn(logits, labels)
                        if training:
                            optimizer.zero_grad()
                            loss.backward()
                            optimizer.step()
                        total += loss.item() * len(labels)
                        right += (logits.argmax(dim=1) == labels).sum().item()
            seconds.append(time.perf_counter() - began)
        return {"epochs": seconds, "acc": right / len(test)}

    result = fit(job["sizes"]["head"], 1e-3)
    if row == "head":
        return result
    for part in (net.conv_head, net.bn2) if row == "last_block" else (net,):
        part.requires_grad_(True)
    result = fit(job["sizes"]["last"] if row == "last_block" else 1, 1e-5)
    return result | {"seconds": sum(result["epochs"])}


def lightning(row: str, job: dict[str, Any]) -> Result:
    """A LightningModule whose backbone is frozen and in eval mode, and a Trainer."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from torch import nn
    from torch.nn.functional import cross_entropy

    backbone, train, test = prepare(job)
    backbone.reset_classifier(0)
    times: list[float] = []

    class Plain(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, len(train.classes)))

        def on_train_epoch_start(self) -> None:
            self.backbone.eval()
            times.append(time.perf_counter())

        def training_step(self, batch: Any) -> torch.Tensor:
            loss = cross_entropy(self.head(self.backbone(batch[0])), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any) -> None:
            logits = self.head(self.backbone(batch[0]))
            self.log("val_loss", cross_entropy(logits, batch[1]))
            self.log("val_acc", (logits.argmax(dim=1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.head.parameters(), lr=1e-3)

    quiet: Any = dict.fromkeys(("enable_progress_bar", "logger", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=job["sizes"]["head"], **quiet)
    trainer.fit(Plain(), *loaders(train, test))
    times.append(time.perf_counter())
    epochs = [end - start for start, end in pairwise(times)]
    return {"epochs": epochs, "acc": trainer.callback_metrics["val_acc"].item()}


def limit(row: str, job: dict[str, Any]) -> Result:
    """Each photo once through the net, as fast as is known here; then a Linear layer trains."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, dropout

    from thaw.data.dataset import decoders, normalised, pixels
    from thaw.launch.memory import keep_memory
    from thaw.nets.fuse import fused
    from thaw.training.features import BATCH
    from thaw.training.trainer import best_precision

    keep_memory()
    net, *folders = prepare(job)
    net.reset_classifier(0)
    net.eval().to(memory_format=torch.channels_last)
    bf16, rows = best_precision("cpu") == "bf16-mixed", []
    run, see = fused(net, torch.bfloat16 if bf16 else torch.float32), folders[0].transform
    with (
        decoders() as pool,
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        for folder in folders:
            folder.transform = functools.partial(pixels, see)
            for batch in torch.arange(len(folder)).split(BATCH):
                images = torch.stack([x for x, _ in pool.map(folder.__getitem__, batch.tolist())])
                images = images.contiguous(memory_format=torch.channels_last)
                rows.append(run(normalised(see, images)).float())
    features, labels = torch.cat(rows), torch.tensor([t for f in folders for t in f.targets])
    head, photos = nn.Linear(1280, len(folders[0].classes)), len(folders[0])
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(job["sizes"]["long" if row == "head25" else "head"]):
        for batch in torch.randperm(photos).split(32):
            loss = cross_entropy(head(dropout(features[batch], 0.2)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    right = head(features[photos:]).argmax(dim=1) == labels[photos:]
    return {"acc": right.float().mean().item()}


def thaw(row: str, job: dict[str, Any]) -> Result:
    """`thaw train …` as it is typed, and what its run folder says."""
    sizes, run = job["sizes"], Path(job["run"])
    arguments = ["trainer=cpu", f"cache.dir='{job['cache']}'", f"hydra.run.dir='{run}'"]
    arguments += ["data=folder", f"data.root='{job['data']}'", f"data.test={job['test']}"]
    # The loop looks at all test photos after each epoch: where epochs are compared, so does Thaw.
    alike = row in ("last_block", "full", "parts")
    arguments += [f"data.val={job['test'] if alike else 'null'}", *job["off"]]
    arguments += [f"finetune.phases.head.epochs={sizes['long' if row == 'head25' else 'head']}"]
    if row == "last_block":
        arguments += ["finetune=last_block", f"finetune.phases.last.epochs={sizes['last']}"]
    if row in ("full", "parts"):
        arguments += ["finetune=full", "finetune.phases.all.epochs=1"]
    if row == "sweep":
        rates = [f"{10 ** (-4 + 2 * i / (sizes['rates'] - 1)):.2e}" for i in range(sizes["rates"])]
        arguments += [f"finetune.phases.head.lr={','.join(rates)}", f"hydra.sweep.dir='{run}'"]
        arguments += ["--multirun"]
    sys.argv = ["thaw", "train", *arguments]

    from thaw.commands import train
    from thaw.evaluation import scores

    report, tested = scores.report, [0.0]

    def note(*args: Any, **kwargs: Any) -> Any:
        tested[0] = time.perf_counter()
        return report(*args, **kwargs)

    scores.report = note
    began = time.perf_counter()
    train.main()
    jobs = [json.loads(file.read_text()) for file in run.rglob("metrics.json")]
    if len(jobs) != (sizes["rates"] if row == "sweep" else 1):
        raise RuntimeError(f"{len(jobs)} jobs finished.")
    result = {"acc": max(metrics["test/acc"] for metrics in jobs)}  # a sweep has rates too low
    if row not in ("sweep", "thaw"):  # to the end of the test: other systems report nothing
        result["seconds"] = tested[0] - began
    if row in ("last_block", "full", "parts"):
        with (run / "history.csv").open(newline="") as file:
            epochs = [(line["phase"], float(line["seconds"])) for line in csv.DictReader(file)]
        head = sum(seconds for phase, seconds in epochs if phase == "head")
        everything = jobs[0]["seconds/fit"] + jobs[0]["seconds/test"]
        result["seconds"] = everything - head if row == "last_block" else epochs[-1][1]
        result["features"] = jobs[0]["seconds/features"]
    return result


# --- what is said of it ---------------------------------------------------------------------------


def progress(result: Result, repeats: int) -> str:
    """A line on a measurement."""
    acc = f"{result['acc']:7.1%}" if "acc" in result else ""
    return (
        f"{result['row']:<10} {result['system']:<9} {result['repeat'] + 1}/{repeats}"
        f" {result['seconds']:8.2f} s {result['whole']:8.2f} s whole"
        f" {result['rss'] / 1e6:6,.0f} MB{acc}{'  scaled' if 'scaled' in result else ''}"
    )


def medians(found: Sequence[Result]) -> Medians:
    """Row → system → key → the median over the repeats."""
    middle: Medians = {}
    for row, system in dict.fromkeys((result["row"], result["system"]) for result in found):
        same = [result for result in found if (result["row"], result["system"]) == (row, system)]
        middle.setdefault(row, {})[system] = {
            key: statistics.median(result[key] for result in same)
            for key in ("seconds", "whole", "features", "rss", "acc", "photos", "rate")
            if key in same[0]
        }
    return middle


def tables(middle: Medians, sizes: dict[str, Any]) -> list[list[list[str]]]:
    """Tables of cells, headers first: systems by row, pairs with their ratio, parts of Thaw."""
    names = {f"{name}_images": 5 * sum(sizes[name]) for name in ROWS["memory"]}
    names |= sizes | middle.get("predict", {}).get("folder", {})
    systems = [["", *(name for name, _ in SYSTEMS.values())]]
    for row, key, label in LINES:
        if row in middle:
            values = {s: found[key] for s, found in middle[row].items()}
            cells = {system: amount(value, key) for system, value in values.items()}
            for system in cells if key in ("seconds", "whole") else ():
                if system != "lesson":
                    cells[system] += f" ({digits(values['lesson'] / values[system], 2)}×)"
            systems.append([label.format(**names), *(cells.get(s, "") for s in SYSTEMS)])
    pairs = [["", "", ":", "ratio"]]
    for row, key, system, other, label in PAIRS:
        if row in middle:
            a, b = middle[row][system][key], middle[row][other][key]
            ratio = f"{digits(a / b, 3)}"
            pairs.append([label.format(**names), amount(a, key), amount(b, key), ratio])
    parts = [["Thaw's parts", "frozen work", "whole net, 1 epoch", "peak memory", "test accuracy"]]
    for name, found in middle.get("parts", {}).items():
        keys = ("features", "seconds", "rss", "acc")
        parts.append([name, *(amount(found[key], key) for key in keys)])
    return [table for table in (systems, pairs, parts) if len(table) > 1]


def amount(value: float, key: str) -> str:
    """A number with its unit: 5.04 s, 94.1%, 640 MB."""
    if key == "acc":
        return f"{value:.1%}"
    return f"{value / 1e6:,.0f} MB" if key == "rss" else f"{digits(value, 3)} s"


def digits(value: float, count: int) -> str:
    """Rounded to so many digits, but never before the point: 105, 21.0, 5.04 for 3."""
    return f"{value:,.{max(count - len(str(int(value))), 0)}f}"


def markdown(found: Sequence[Result], machine: dict[str, Any], sizes: dict[str, Any]) -> str:
    """The tables; what was measured on which machine, and what counts as what."""
    blocks = []
    for header, *lines in tables(medians(found), sizes):
        rule = ["---", *["---:"] * (len(header) - 1)]
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)))
    repeats = 1 + max(result["repeat"] for result in found)
    threads = next((result["threads"] for result in found if "threads" in result), "default")
    where = (
        f"Medians of {repeats}, a process each, in turns. {machine['cpu']}, {machine['cores']}"
        f" cores, {threads} threads, torch {machine['torch']}."
    )
    rows = {result["row"] for result in found}
    own = [note for row, note in NOTES.items() if row in rows]
    blocks.append("\n".join(f"- {note.format(**sizes)}" for note in (where, *own)))
    return "\n\n".join(blocks) + "\n"


def draw_figure(path: Path, middle: Medians, sizes: dict[str, Any]) -> None:
    """Seconds of all systems, on a logarithmic axis; nothing where no row has several of them."""
    from matplotlib.figure import Figure  # needs no backend: nothing is shown
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    groups = [
        (label.format(**sizes), {system: found[key] for system, found in middle[row].items()})
        for row, key, label in LINES
        if row in middle and key in ("seconds", "whole")
    ]
    if not groups:
        return
    height = sum(len(bars) + 0.8 for _, bars in groups)
    figure = Figure(figsize=(9, 1.4 + 0.27 * height), layout="constrained")
    axes, y, ticks = figure.subplots(), 0.0, []
    for _, bars in groups:
        ticks.append(y + (len(bars) - 1) / 2)
        for system, seconds in bars.items():
            name, colour = SYSTEMS[system]
            axes.barh(y, seconds, 0.86, color=colour, label=name)
            times = f"   {digits(bars['lesson'] / seconds, 2)}×" if system != "lesson" else ""
            axes.text(seconds, y, f" {digits(seconds, 3)} s{times}", va="center", fontsize=9)
            y += 1
        y += 0.8
    every = [seconds for _, bars in groups for seconds in bars.values()]
    axes.set(xscale="log", xlim=(min(every) / 2, max(every) * 3), ylim=(y - 0.8, -0.8))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    scaled = f"; {sizes['long']} epochs of the loop and of Lightning: scaled from {sizes['head']}"
    axes.set_xlabel("seconds" + scaled * ("head25" in middle))
    axes.set_yticks(ticks, [label for label, _ in groups])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend([*unique.values()], [*unique], loc="outside lower center", ncols=5, frameon=False)
    label, bars = groups[0]
    cold, loop = digits(bars["thaw"], 3), digits(bars["lesson"], 3)
    title = f"{label.capitalize()}: {cold} s with Thaw, {loop} s with the lesson's loop"
    figure.suptitle(title, x=0.01, ha="left")
    files.write_figure(path, figure)
