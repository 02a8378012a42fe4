"""Classes: names that are spelled alike, splits that lack one, few photos, imbalance."""

import re
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

from thaw.checks.findings import Context, Finding, Result, several
from thaw.data.find import is_photo
from thaw.data.folder import PhotoFolder

FEW = 10  # photos of a class in train, below which what is learnt of it is mostly chance
IMBALANCE = 5.0  # times as many photos in the largest class as in the smallest


def find(context: Context) -> list[Result]:
    """Judge the classes by their names and by their counts."""
    data = context.data
    findings = [*alike(data), *missing(data), *nested(data)]
    results = []
    if findings:
        first = findings[0].detail
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        own = [finding for finding in findings if _cut(data, finding)]
        advice = ["Merge or rename folders, or label:NAME in check.csv's action column."]
        advice = advice * (len(own) < len(findings)) + ["Add photos of these classes."] * bool(own)
        if nothing := [split for split, samples in data.splits.items() if not samples]:
            advice += [f"Training refuses a {' and a '.join(nothing)} split without photos."]
        results.append(Result("class", f"{first}{more}", " ".join(advice), findings))
    small = few(data)
    imbalance = imbalance_line(data)
    if small or imbalance:
        names = ", ".join(repr(f.path) for f in small[:3])
        parts = []
        if small:
            parts.append(
                f"{several(len(small), 'class', 'classes')} with fewer than {FEW} train photos:"
                f" {names}{', …' if len(small) > 3 else ''}"
            )
        if imbalance:
            parts.append(imbalance)
            counts = counted(data)
            least = min(counts, key=counts.__getitem__)
            if not any(finding.path == least for finding in small):
                small.append(Finding("small_class", least, "", 0.5, imbalance))
        advice = "Add photos of them; data.balance=sampler or loss makes up for a part of it."
        results.append(Result("small_class", "; ".join(parts), advice, small))
    return results


def counted(data: PhotoFolder) -> dict[str, int]:
    """Train photos of each class."""
    counts = Counter(sample.label for sample in data.splits["train"])
    return {name: counts[label] for label, name in enumerate(data.classes)}


def few(data: PhotoFolder) -> list[Finding]:
    """Classes with few train photos, the fewest first."""
    counts = sorted(counted(data).items(), key=lambda item: item[1])
    return [
        Finding("small_class", name, "", 1 - count / FEW, f"{several(count, 'train photo')}")
        for name, count in counts
        if count < FEW
    ]


def imbalance_line(data: PhotoFolder) -> str:
    """A sentence where one class has many times the photos of another, else nothing."""
    counts = counted(data)
    most, least = (choose(counts, key=counts.__getitem__) for choose in (max, min))
    if not counts[least] or counts[most] < IMBALANCE * counts[least]:
        return ""
    ratio = counts[most] / counts[least]
    return (
        f"{most!r} has {counts[most]:,} train photos, {least!r} {counts[least]:,}: {ratio:.0f} to 1"
    )


def _stem(name: str) -> str:
    """A name without what people spell one way today and another tomorrow.

    >>> _stem("Golden_Retrievers"), _stem("golden retriever"), _stem("daisies"), _stem("glass")
    ('goldenretriever', 'goldenretriever', 'daisy', 'glass')
    """
    plain = re.sub(r"[\W_]+", "", name.casefold())
    if len(plain) > 4 and plain.endswith("ies"):
        return plain[:-3] + "y"
    if len(plain) > 4 and plain.endswith(("ches", "shes", "xes", "sses")):
        return plain[:-2]
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and plain[-2] not in "su" else plain


def alike(data: PhotoFolder) -> list[Finding]:
    """Classes whose names differ by case, spaces, `_`, `-` or a plural alone."""
    same = defaultdict(list)
    for name in data.classes:
        same[_stem(name) or name].append(name)
    pairs = [pair for names in same.values() for pair in combinations(names, 2)]
    return [
        Finding("class", one, other, 1.0, f"classes {one!r} and {other!r} are spelled alike")
        for one, other in pairs
    ]


def missing(data: PhotoFolder) -> list[Finding]:
    """Classes that a split has no photos of."""
    found = []
    for split, samples in data.splits.items():
        there = {sample.label for sample in samples}
        for label, name in enumerate(data.classes):
            if label not in there:
                detail = f"the {split} split has no photos of {name!r}"
                found.append(Finding("class", name, split, 0.9, detail))
    return found


def _cut(data: PhotoFolder, finding: Finding) -> bool:
    """Whether a class lacks photos in a split that is cut off: there are too few of them."""
    return finding.other in data.cut and finding.other not in data.classes


def nested(data: PhotoFolder) -> list[Finding]:
    """Class folders with several folders of photos in them: classes of their own, perhaps."""
    inner: dict[str, set[str]] = defaultdict(set)
    for samples in data.splits.values():
        for sample in samples:
            folder = Path(sample.path).parent
            name = data.classes[sample.label]
            if folder.name != name and name in folder.parts and is_photo(sample.path):
                inside = folder.parts[len(folder.parts) - folder.parts[::-1].index(name) :]
                inner[name].add(inside[0])
    found = []
    for name, folders in sorted(inner.items()):
        if len(folders) > 1:
            shown = ", ".join(map(repr, sorted(folders)[:3]))
            detail = f"class {name!r} has folders in it ({shown}): are they classes?"
            found.append(Finding("class", name, sorted(folders)[0], 0.5, detail))
    return found
