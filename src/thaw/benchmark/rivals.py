"""What is measured: Thaw and its rivals, with the same net, weights and photos."""

import csv
import functools
import importlib
import json
import runpy
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from thaw import files

Result = dict[str, Any]


def one(system: str, row: str, job: dict[str, Any]) -> None:
    """Import, do a job against the clock, and print what came out as a line of JSON."""
    rivals = {"lesson": lesson, "lightning": lightning, "limit": limit, "pass": bare_pass}
    ours = {"predicted": predicted, "evaluated": evaluated, "features": computed}
    ours |= {"check": checked, "telling": telling, "without": telling}
    run = (rivals | ours).get(system, thaw)
    imports = Path(job["imports"])
    known = json.loads(imports.read_text(encoding="utf-8")) if imports.exists() else []
    for name in known:  # exactly what this job would import anyway, early or late
        with suppress(Exception):  # some only look like modules
            importlib.import_module(name)
    began = time.perf_counter()
    named = ("sweep", "check", "folds", "unfamiliar")
    result = run(system if row in named else row, job)
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
    return net.requires_grad_(False).to(job["device"]), train, test


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
    head, device = nn.Linear(1280, len(train.classes)), job["device"]
    net.classifier = nn.Sequential(nn.Dropout(0.2), head).to(device)
    loss_fn = nn.CrossEntropyLoss()

    def fit(epochs: int, lr: float) -> Result:
        optimizer, seconds, right = torch.optim.Adam(net.parameters(), lr=lr), [], 0
        for _ in range(epochs):
            began = time.perf_counter()
            for loader, training in passes:
                net.train(training)
                total, right = 0.0, 0
                with torch.inference_mode(not training):
                    for photos, answers in loader:
                        images, labels = photos.to(device), answers.to(device)
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
    trainer = Trainer(
        accelerator=job["device"], devices=1, max_epochs=job["sizes"]["head"], **quiet
    )
    trainer.fit(Plain(), *loaders(train, test))
    times.append(time.perf_counter())
    epochs = [end - start for start, end in pairwise(times)]
    return {"epochs": epochs, "acc": trainer.callback_metrics["val_acc"].item()}


def limit(row: str, job: dict[str, Any]) -> Result:
    """Each photo once through the net, as fast as is known here; then a Linear layer trains."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, dropout

    from thaw.data.dataset import normalised, pixels
    from thaw.data.stream import BATCH, decoders
    from thaw.launch.memory import keep_memory
    from thaw.nets.fuse import fused
    from thaw.training.trainer import best_precision

    keep_memory()
    net, *folders = prepare(job)
    net.reset_classifier(0)
    net.eval().to(memory_format=torch.channels_last)
    device, see, rows = job["device"], folders[0].transform, []
    bf16 = best_precision(device) == "bf16-mixed"
    run = fused(net, torch.bfloat16 if bf16 else torch.float32) if device == "cpu" else net
    with (
        decoders() as pool,
        torch.inference_mode(),
        torch.autocast(device, torch.bfloat16, enabled=bf16),
    ):
        for folder in folders:
            folder.transform = functools.partial(pixels, see)
            for batch in torch.arange(len(folder)).split(BATCH):
                images = torch.stack([x for x, _ in pool.map(folder.__getitem__, batch.tolist())])
                images = images.to(device).contiguous(memory_format=torch.channels_last)
                rows.append(run(normalised(see, images)).float().cpu())
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


def bare_pass(row: str, job: dict[str, Any]) -> Result:
    """All photos decoded, and once through the net of a model: the least that labelling takes."""
    import torch

    from thaw.data.dataset import normalised, pixels
    from thaw.data.find import find_photos
    from thaw.data.photos import load_photo
    from thaw.data.stream import BATCH, decoders
    from thaw.model.predict import load_model
    from thaw.nets.fuse import fused

    model, photos = load_model(Path(job["model"])), find_photos([Path(job["data"])])
    run, see, device = model.backbone.net, model.transforms, model.device
    run = fused(run) if device.type == "cpu" else run
    with decoders() as pool, torch.inference_mode():
        for begin in range(0, len(photos), BATCH):
            batch = photos[begin : begin + BATCH]
            images = torch.stack([*pool.map(lambda path: pixels(see, load_photo(path)), batch)])
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            run(normalised(see, images)).cpu()
    return {"photos": len(photos)}


def predicted(row: str, job: dict[str, Any]) -> Result:
    """`thaw predict MODEL PHOTOS --output FILE`."""
    from thaw.model.predict import predict

    out = Path(job["run"]).with_suffix(".csv")
    predict(Path(job["model"]), [Path(job["data"])], output=out)
    return {"photos": len(out.read_text(encoding="utf-8").splitlines()) - 1}


def evaluated(row: str, job: dict[str, Any]) -> Result:
    """`thaw evaluate` labelling the same photos, without the numbers and figures that follow."""
    from thaw.data.find import find_photos
    from thaw.evaluation.evaluate import Labelled, answer
    from thaw.model.predict import load_model

    root = Path(job["data"])
    photos = [str(path.relative_to(root)) for path in find_photos([root])]
    labelled = Labelled(root, photos, [0] * len(photos))
    return {"photos": len(answer(load_model(Path(job["model"])), labelled, "photos").labels)}


def telling(system: str, job: dict[str, Any]) -> Result:
    """Labels of all photos, with a word on what is unfamiliar or without: processor seconds of the
    quickest of three passes, and the bundle's bytes.
    """
    import torch

    from thaw.data.find import find_photos
    from thaw.model.bundle import Model, load
    from thaw.model.familiar import store

    model, photos = load(Path(job["model"])), find_photos([Path(job["data"])])
    parts = [*Path(job["model"], "model").iterdir()]
    if system == "without":
        model = Model(model.backbone, model.info)
        parts = [file for file in parts if file.name != store.FILE]
    torch.set_num_threads(1)  # several wait for one another, and that counts as computing
    spent = []
    for _ in range(3):
        began = time.process_time()
        labels = [*model.predict(photos)]
        assert len(labels) == len(photos)
        spent.append(time.process_time() - began)
    size = sum(file.stat().st_size for file in parts)
    return {"photos": len(photos), "seconds": min(spent), "bytes": size}


def checked(row: str, job: dict[str, Any]) -> Result:
    """`thaw check`, with no features in the cache."""
    from thaw.checks.check import check

    check(_words(job), out=Path(job["run"]))
    return {}


def computed(row: str, job: dict[str, Any]) -> Result:
    """What `thaw check` can't do without: the photos' features, with none in the cache."""
    from thaw.checks.check import features, ready

    data, extractor, _ = ready(_words(job), Path(job["run"]))
    features(data, extractor)
    return {}


def _words(job: dict[str, Any]) -> list[str]:
    words = ["data=folder", f"data.root='{job['data']}'", f"data.test={job['test']}"]
    return [*words, "data.val=null", f"cache.dir='{job['cache']}'"]


def thaw(row: str, job: dict[str, Any]) -> Result:
    """`thaw train …` as it is typed, and what its run folder says."""
    sizes, run = job["sizes"], Path(job["run"])
    arguments = ["trainer=cpu" if job["device"] == "cpu" else "trainer=gpu"]
    arguments += [f"cache.dir='{job['cache']}'", f"hydra.run.dir='{run}'"]
    arguments += ["data=folder", f"data.root='{job['data']}'", f"data.test={job['test']}"]
    # The loop looks at all test photos after each epoch: where epochs are compared, so does Thaw.
    alike = row in ("last_block", "full", "parts")
    arguments += [f"data.val={job['test'] if alike else 'null'}", *job["off"]]
    arguments += [f"finetune.phases.head.epochs={sizes['long' if row == 'head25' else 'head']}"]
    if row == "last_block":
        arguments += ["finetune=last_block", f"finetune.phases.last.epochs={sizes['last']}"]
    if row in ("full", "parts"):
        arguments += ["finetune=full", "finetune.phases.all.epochs=1"]
    if row == "folds":
        arguments.append("folds=5")
    if row == "sweep":
        rates = [f"{10 ** (-4 + 2 * i / (sizes['rates'] - 1)):.2e}" for i in range(sizes["rates"])]
        arguments += [f"finetune.phases.head.lr={','.join(rates)}", f"hydra.sweep.dir='{run}'"]
        arguments += ["--multirun"]
    sys.argv = ["thaw", "train", *arguments]

    from thaw.evaluation import scores

    report, tested = scores.report, [0.0]

    def note(*args: Any, **kwargs: Any) -> Any:
        tested[0] = time.perf_counter()
        return report(*args, **kwargs)

    scores.report = note
    began = time.perf_counter()
    try:
        runpy.run_module("thaw", run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"It ended with {stop.code}.") from None
    runs = [run] if row == "folds" else [file.parent for file in run.rglob("metrics.json")]
    jobs = [json.loads((folder / "metrics.json").read_text()) for folder in runs]
    if len(jobs) != (sizes["rates"] if row == "sweep" else 1):
        raise RuntimeError(f"{len(jobs)} jobs finished.")
    result = {"acc": max(metrics["test/acc"] for metrics in jobs)}  # a sweep has rates too low
    if row not in (
        "sweep",
        "thaw",
        "folds",
    ):  # to the end of the test: other systems report nothing
        result["seconds"] = tested[0] - began
    if row in ("last_block", "full", "parts"):
        with (run / "history.csv").open(newline="") as file:
            epochs = [(line["phase"], float(line["seconds"])) for line in csv.DictReader(file)]
        head = sum(seconds for phase, seconds in epochs if phase == "head")
        everything = jobs[0]["seconds/fit"] + jobs[0]["seconds/test"]
        result["seconds"] = everything - head if row == "last_block" else epochs[-1][1]
        result["features"] = jobs[0]["seconds/features"]
    return result
