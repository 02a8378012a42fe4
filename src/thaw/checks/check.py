"""`thaw check`: what is wrong with these photos, in the order of what to do first."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import torch
from rich import get_console
from rich.text import Text
from torch import Tensor

from thaw.checks import classes, duplicates, files, groups, labels, page, shortcuts
from thaw.checks.facts import Looks, read_files
from thaw.checks.findings import (
    COLUMNS,
    ISSUES,
    Context,
    Finding,
    Result,
    several,
)
from thaw.data.cache import FeatureCache
from thaw.data.find import LeftOut, find
from thaw.data.folder import PhotoFolder
from thaw.data.listing.settle import BROKEN
from thaw.data.splits import together
from thaw.errors import UserError
from thaw.escape import printable
from thaw.files import write, write_csv, write_json
from thaw.launch import cli, memory, names
from thaw.launch.build import make
from thaw.launch.mistakes import composed
from thaw.nets.fit import seen
from thaw.nets.pretrained import made
from thaw.training.features import Extractor
from thaw.training.probe.folds import FEWEST, fold_of_each, out_of_fold
from thaw.training.probe.inputs import head_inputs
from thaw.training.trainer import make_trainer

GROUPS = ("arch", "data", "trainer", "cache", "seed")  # what of training's settings has a meaning
CHECKS: tuple[Callable[[Context], list[Result]], ...] = (
    files.find,
    classes.find,
    duplicates.find,
    labels.find,
    shortcuts.find,
    groups.find,
)
SPLITS = ("train", "val", "test")
FOLDS = 5
WIDTH = 80


@dataclass(frozen=True)
class Checked:
    """What a check found: results in the order of what to do first, and where its files are."""

    results: list[Result]
    path: Path

    @property
    def findings(self) -> list[Finding]:
        """All findings, those to deal with first before others."""
        return [finding for result in self.results for finding in result.findings]

    @property
    def sentences(self) -> list[str]:
        """A sentence an issue."""
        return [result.sentence for result in self.results]

    def __repr__(self) -> str:
        return f"Checked({str(self.path)!r}, {several(len(self.findings), 'finding')})"


def check(words: Sequence[str], out: Path | None = None) -> Checked:
    """Check the photos that these words mean; write check.html, .json and .csv; print a summary.

    Args:
        words: `KEY=VALUE`, as for training: `data=folder`, `data.root=PATH`, `arch=NAME`.
        out: where files go; by default a new folder in outputs/check.

    Raises:
        UserError: a word can't be used, or the photos can't.
    """
    out = out or Path(names.run_dir(f"outputs/check/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    data, extractor, seed = ready(words, out)
    say(_about(data))
    results = results_of(context_of(data, extractor, seed))
    checked = Checked(results, out)
    write_all(checked, data)
    show(checked)
    return checked


def ready(words: Sequence[str], out: Path) -> tuple[PhotoFolder, Extractor, int]:
    """The photos that these words mean, what makes features of them, and the seed.

    Raises:
        UserError: a word can't be used, or the photos can't.
    """
    for word in words:
        if word.lstrip("+~").partition("=")[0].partition(".")[0] not in GROUPS or "=" not in word:
            raise UserError(
                f"Expected words that begin with {', '.join(GROUPS)}, such as data.root=PATH, got"
                f" {word!r}."
            )
    cfg = composed(words)
    cache, backbone, data, trainer = cli.build_all(
        lambda: FeatureCache(**cfg.cache),
        lambda: made(cfg.arch, **seen(cfg.data)),
        # Broken photos and leaks are found, not refused, however many they are.
        lambda: (
            make(cfg.data, "data", seed=cfg.seed, on_error="list", check="off").of(out).checked()
        ),
        lambda: make_trainer(cfg.trainer, 1, [], []),
    )
    if trainer.world_size > 1:
        raise UserError(f"Expected one device, but trainer.devices={cfg.trainer.devices} are more.")
    data.ready()
    if cfg.trainer.keep_memory:
        memory.keep_memory()
    torch.manual_seed(cfg.seed)
    backbone.reset_head(len(data.classes))
    if cfg.trainer.channels_last:  # as in training, which finds the same features
        backbone.arrange(torch.channels_last)
    backbone.thaw(["head"])
    extractor = Extractor(cache, backbone, data, cfg.trainer.fuse)
    extractor.on(trainer)
    data.transforms = backbone.transforms
    return data, extractor, cfg.seed


def features(data: PhotoFolder, extractor: Extractor) -> Tensor:
    """Features of all photos `[N, D]`, split by split; what the check costs at least."""
    return head_inputs(extractor, [split for split in SPLITS if data.splits[split]])[0]


def results_of(context: Context) -> list[Result]:
    """What every check says, in the order of what to do first."""
    found = [result for check in CHECKS for result in check(context)]
    return sorted(found, key=lambda result: (not result.wrong, ISSUES.index(result.issue)))


def context_of(data: PhotoFolder, extractor: Extractor, seed: int) -> Context:
    """Decode each photo once, and compute or find what the checks read of it."""
    backbone = extractor.backbone
    looks = Looks(extractor.cache, data.white)
    extractor.see = looks.see
    found = features(data, extractor)
    if not found.isfinite().all():
        raise UserError(f"The features of {backbone.origin['name']} aren't finite numbers.")
    digests = [digest for split in SPLITS for digest in data.digests(split)]
    samples = [sample for split in SPLITS for sample in data.splits[split]]
    splits = [split for split in SPLITS for _ in data.splits[split]]
    taken = looks.all(data.paths_by_digest())
    there = [
        i
        for i, sample in enumerate(samples)
        if sample.path not in data.broken and digests[i] in taken
    ]
    unreadable, left_out = _not_used(data)
    context = Context(
        data=data,
        see=backbone.transforms,
        splits=[splits[i] for i in there],
        samples=[samples[i] for i in there],
        digests=[digests[i] for i in there],
        files=read_files([data.root / samples[i].path for i in there]),
        looks=torch.stack([taken[digests[i]] for i in there]),
        features=found[there],
        unreadable=unreadable,
        left_out=left_out,
    )
    context.pairs = duplicates.pairs(context)
    _predict(context, seed)
    return context


def _not_used(data: PhotoFolder) -> tuple[dict[Path, str], list[LeftOut]]:
    """Photos that can't be decoded, with the reason, and what else is there and isn't used."""
    assert data.settled is not None
    dropped = {data.root / drop["path"]: drop["reason"] for drop in data.settled.dropped}
    unreadable = {data.root / path: why for path, why in data.broken.items()}
    fixed = []
    for path, reason in dropped.items():
        if reason.startswith(BROKEN):
            unreadable[path] = reason.removeprefix(BROKEN)
        else:
            fixed.append(LeftOut(path, reason))
    found = find(data.root)
    used = {data.root / sample.path for samples in data.splits.values() for sample in samples}
    others = [path for path in found.photos if path not in used and path not in dropped]
    unreadable |= (faults := data.known.faults(others))
    unused = [LeftOut(path, "in no class") for path in others if path not in faults]
    return unreadable, [*found.left_out, *unused, *fixed]


def _predict(context: Context, seed: int) -> None:
    """Out-of-fold predictions of all train and val photos whose class has enough of them.

    What belongs together (a group, the same photo) counts as one: it is all in one fold.
    """
    first: dict[str, int] = {}
    alike = [first.setdefault(digest, i) for i, digest in enumerate(context.digests)]
    keys = together(alike, [sample.group for sample in context.samples])
    kinds: dict[int, set[int]] = defaultdict(set)
    for i in context.used:
        kinds[context.samples[i].label].add(keys[i])
    enough = {label: len(own) for label, own in kinds.items() if len(own) >= FEWEST}
    if len(enough) < 2:
        return
    context.judged = [i for i in context.used if context.samples[i].label in enough]
    samples = [context.samples[i] for i in context.judged]
    folds = min(FOLDS, *enough.values())
    alike = [alike[i] for i in context.judged]
    context.folds = fold_of_each(samples, context.data.classes, folds, seed, alike)
    _, labels = context.labels.unique(return_inverse=True)
    context.logits = out_of_fold(context.features[context.judged], labels, context.folds)


# --- telling --------------------------------------------------------------------------------------


def write_all(checked: Checked, data: PhotoFolder) -> None:
    """Write check.csv, check.json and check.html."""
    rows = [finding.row() for finding in checked.findings]
    if rows:
        write_csv(checked.path / "check.csv", rows)
    else:
        write(checked.path / "check.csv", ",".join(COLUMNS) + "\n")
    counts = {split: len(samples) for split, samples in data.splits.items()}
    facts = {"root": str(data.root), "classes": data.classes, "photos": counts}
    results = [asdict(result) for result in checked.results]
    write_json(checked.path / "check.json", facts | {"results": results})
    write(checked.path / "check.html", page.html(checked.results, data, _about(data)))


def _about(data: PhotoFolder) -> str:
    counts = ", ".join(f"{len(s):,} {split}" for split, s in data.splits.items())
    return f"{data.root}: {several(len(data.classes), 'class', 'classes')}, {counts}"


def show(checked: Checked) -> None:
    """Print what to do first, first."""
    wrong = [result for result in checked.results if result.wrong]
    for number, result in enumerate(wrong, 1):
        say("")
        say(f"{number:>2}  {result.sentence}", indent=4, style="bold")
        worst = result.findings[0]
        if worst.other and result.issue not in ("shortcut", "class"):
            say(f"    {worst.path} | {worst.other}", indent=6)
        say(f"    {result.advice}", indent=4, style="dim")
    for result in checked.results:
        if not result.wrong:
            say(f"    {result.sentence}", indent=4)
    if not wrong:
        say("Nothing was found: no duplicates, no odd files, no labels that look wrong.")
    say("")
    say(f"page    {checked.path / 'check.html'}")
    say(f"table   {checked.path / 'check.csv'}  (fill in action, then data.fixes=…)")


def say(text: str, indent: int = 8, style: str = "") -> None:
    """Print a line of any text, broken to 80 columns between words; nothing in it is markup."""
    lines = textwrap.wrap(
        printable(text),
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    for line in lines or [""]:
        get_console().print(Text(line, style), soft_wrap=True)
