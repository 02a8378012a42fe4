"""What a finished run's folder says of it, as values and sentences that a page shows."""

import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thaw.launch.cli import door
from thaw.launch.names import arch_name
from thaw.page.render import photos as photos_of
from thaw.runs import read
from thaw.runs.folder import RunFolder
from thaw.runs.read import Split

SIZE = ("size of the model", "one photo", "the model")  # of `time`
WIDE = 0.2  # an interval from which on it is said that so few photos tell little


def called(run: Path) -> str:
    """The net, the photos and the schedule: `resnet18 on birds, head_only`."""
    settings = read.environment(run).get("settings", {})
    chosen: dict[str, Any] = {}
    if (run / ".hydra" / "hydra.yaml").is_file():
        chosen = read.choices(run)
    arch = settings.get("arch", {}).get("name")
    net = arch_name(chosen["arch"], arch) if "arch" in chosen else str(arch or "a net")
    data = chosen.get("data") or "photos"
    if data in ("folder", "table"):  # says where from, not what
        root = settings.get("data", {}).get("root") or settings.get("data", {}).get("file")
        data = Path(str(root)).name or data
    schedule = chosen.get("finetune")
    return f"{net} on {data}" + (f", {schedule}" if schedule else "")


def verdict(metrics: Mapping[str, Any], split: Split) -> list[str]:
    """What came out, in sentences that hold for 2 photos as for 20,000."""
    photos, acc = metrics["test/images"], metrics["test/acc"]
    low, high = metrics["test/acc_low"], metrics["test/acc_high"]
    right = round(acc * photos)
    labelled = f"{'is' if right == 1 else 'are'} labelled right"
    told = f"{right:,} of {photos_of(photos)} it had never seen {labelled}"
    if "folds" in metrics:
        told = f"{right:,} of {photos_of(photos)} {labelled}, each by a net that had never seen it"
    said = [f"{told}: {acc:.1%} (95% interval {low:.1%} to {high:.1%})."]
    if "given/acc" in metrics:
        low, high = metrics["given/acc_low"], metrics["given/acc_high"]
        said.append(
            f"Of the test split, opened once by the model of all other photos,"
            f" {metrics['given/acc']:.1%} are (95% interval {low:.1%} to {high:.1%})."
        )
        low, high = metrics["test/acc_low"], metrics["test/acc_high"]
    if high - low > WIDE:
        said.append("So few photos say little: more test photos would make the interval narrower.")
    test = Counter(photo.label for photo in split.photos["test"])
    if test:
        most, times = test.most_common(1)[0]
        share = times / test.total()
        how = "more" if low > share else "not clearly more"
        said.append(f"Always saying {most} would get {share:.1%} right; this is {how} than that.")
    return said


def splits(split: Split, folds: int | None = None) -> str:
    """How many photos of how many classes."""
    if folds:
        photos = photos_of(len(split.photos["test"]))
        return f"{len(split.classes)} classes, {photos}, each in one of {folds} folds"
    counts = [f"{len(split.photos[name]):,} {name}" for name in read.SPLITS]
    return f"{len(split.classes)} classes, {', '.join(counts)} photos"


def by_class(split: Split, judged: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a class: photos in each split, and recall, precision and F1 with what they are of."""
    counts = {name: Counter(p.label for p in split.photos[name]) for name in read.SPLITS}
    rows = [
        {"name": name, **{s: counts[s][name] for s in read.SPLITS}, **judged.get(name, {})}
        for name in split.classes
    ]
    return sorted(rows, key=lambda row: 2.0 if row.get("recall") is None else row["recall"])


def imbalance(split: Split) -> str:
    """How uneven the classes are in training."""
    counts = Counter(photo.label for photo in split.photos["train"])
    if not counts:
        return ""
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many == few:
        return f"Each class has {photos_of(few)} to train on."
    return (
        f"Photos to train on: from {few:,} of {least} to {many:,} of {most}"
        f" ({many / few:.3g} to 1)."
    )


def unsure(found: Mapping[str, Any], run: str) -> str:
    """What happens to photos it isn't sure of.

    Args:
        run: what is to be typed for the model; "" where there is none.
    """
    told = found.get("unsure")
    if not told and not run:
        return "Every photo gets a label, however unsure it is of it."
    if not told:
        return (
            "Every photo gets a label, however unsure it is of it. To have it say “unsure” instead,"
            f" choose how many of its answers may be wrong: {door('evaluate')} {run}"
            " --target-error 0.02 finds the confidence for that on the val photos."
        )
    said = (
        f"Below a confidence of {told['threshold']:.1%} it says “unsure”: that is"
        f" {told['unsure']:,} of {photos_of(told['photos'])} of test ({told['rejection']:.1%})."
    )
    if told["answered"]:
        said += f" Of its answers to the others {told['error']:.1%} are wrong."
    return said


def unfamiliar(found: Mapping[str, Any]) -> str:
    """What happens to photos unlike all it was trained on."""
    told = found.get("unfamiliar")
    if not told:
        return ""
    if told.get("refused"):
        return f"No photo is called “unfamiliar”: {told['refused']}."
    return (
        "A photo that is unlike all train photos is called “unfamiliar”. Of photos like those of"
        f" val at most {100 * told['level']:.3g}% are, on average; of test it is"
        f" {told['unfamiliar']:,} of {photos_of(told['photos'])} ({told['share']:.1%})."
    )


def confidence(found: Mapping[str, Any], folds: int | None = None) -> str:
    """Whether confidence means what it says."""
    values = found["scores"]
    off, low, high = (values[key] for key in ("ece", "ece_low", "ece_high"))
    said = f"Where it says 90%, about 90% should be right. Over all test photos it is {off:.1%} off"
    said += (
        f" (95% interval {low:.1%} to {high:.1%}). "
        if low <= off <= high
        else (
            f"; the accidents of so few photos add to that, and truly it may be {low:.1%} to"
            f" {high:.1%} (95% interval). "
        )
    )
    if folds:
        return said + "Each fold's was set right on its own val photos."
    if found["temperature"] == 1:
        return said + "Confidence was left as it is: val shows no clear error of it."
    return said + (
        f"It was set right on val with a temperature of {found['temperature']:.2f}; without, it"
        f" would be {values['ece_uncalibrated']:.1%} off."
    )


def stages(told: Mapping[str, Any]) -> str:
    """Whether what was frozen stayed as it was."""
    if not told["pretrained"]:
        return "There were no pretrained weights to keep: every phase trained the whole net."
    frozen = any(not rate for stage in told["stages"] for rate in stage["lr"])
    if not frozen:
        return "Every stage trained in every phase."
    if told["unchanged"]:
        return (
            "Frozen stages are bit-identical to before: after each phase their weights and"
            " BatchNorm statistics were compared by sha256."
        )
    return "Frozen stages CHANGED, which they never should: train.log tells which and when."


def time(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What it cost."""
    epochs = f"{metrics['epochs']} epochs, {duration(metrics.get('seconds/epoch'))} each"
    if metrics["epochs"] == 1:
        epochs = "1 epoch"
    seconds = {
        "training": f"{duration(metrics.get('seconds/fit'))} ({epochs})",
        "features of frozen stages": duration(metrics.get("seconds/features")),
        "test": duration(metrics.get("seconds/test")),
    }
    latency = f"{metrics['model/latency_ms']:.2g}"
    sizes = {
        "size of the model": f"{metrics['model/bytes'] / 1e6:.3g} MB,"
        f" {metrics['params/total']:,} parameters, {metrics['params/trainable']:,} of them trained",
        "one photo": f"about {float(latency):g} ms in the net, without reading it",
    }
    if metrics.get("refit") == "ensemble":
        sizes["the model"] = ensemble(metrics)
    return {**seconds, **sizes}


def ensemble(metrics: Mapping[str, Any]) -> str:
    """What the folds' nets became with `refit=ensemble`, and what that costs."""
    k = metrics["folds"]
    if metrics.get("refit/nets", 1) == 1:
        return f"the mean of the {k} folds' heads, as small and fast as one"
    return f"the {k} folds' nets side by side, so {k} times as large and slow as one of them"


def duration(seconds: float | None) -> str:
    """Seconds as one says them.

    >>> duration(0.31), duration(75), duration(7300)
    ('0.3 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def environment(told: Mapping[str, Any]) -> dict[str, str]:
    """On what it ran."""
    git, threads = told.get("git") or {}, told.get("threads", "–")
    commit = git.get("commit")
    packages = ", ".join(f"{name} {version}" for name, version in told.get("packages", {}).items())
    rows = {
        "device": f"{told.get('device', '–')}, {threads} thread{'s' * (threads != 1)}",
        "system": f"{told.get('platform', '–')}, Python {told.get('python', '–')}",
        "packages": packages,
        "code": f"git {commit[:12]}{', changed since' if git.get('changed') else ''}"
        if commit
        else "",
        "seed": str(told.get("seed", "")),
    }
    return {name: value for name, value in rows.items() if value}


def commands(run: Path) -> list[tuple[str, str]]:
    """What to type: to use it, to look at it, to do it again."""
    here, words = shlex.quote(str(RunFolder(run))), _words(run)
    words = [re.sub(r"='([\w./-]+)'$", r"=\1", word) for word in words]  # Hydra's own quotes
    asked = [w for w in words if not w.startswith(("resume", "hydra.run.dir", "hydra.sweep"))]
    use = [
        ("Say what photos show", f"{door('predict')} {here} PHOTOS"),
        ("Judge it on other labelled photos", f"{door('evaluate')} {here} --data DIR"),
        ("Open a page that labels photos", f"{door('serve')} {here}"),
    ]
    if not (run / "model" / "model.json").is_file():  # folds, of which no model left
        use = [("Train a model on all photos", f"{door('train')} resume={here} refit=all")]
    return [
        *use,
        ("Train the same again", " ".join([door("train"), *map(shlex.quote, asked)])),
        ("Go on, had it been interrupted", f"{door('train')} resume={here}"),
        ("See its curves beside others", "tensorboard --logdir outputs"),
    ]


def _words(run: Path) -> list[str]:
    if not (run / ".hydra" / "overrides.yaml").is_file():
        return []
    return read.overrides(run)


def dropped(split: Split, most: int = 30) -> tuple[Sequence[tuple[str, str]], int]:
    """Photos that were left out, with their reasons; and how many more there are."""
    every = list(split.dropped.items())
    return every[:most], max(0, len(every) - most)
