"""Files: what can't be read, what is left out, what is odd, and what the crop cuts away."""

from collections import Counter, defaultdict
from pathlib import Path

from thaw.checks.facts import File
from thaw.checks.findings import Context, Finding, Result, several
from thaw.data.dataset import cut_away
from thaw.data.find import EXTENSIONS
from thaw.data.listing.faults import MOST_BROKEN

ODD_SHAPE = 3.0  # times as long as high, or the other way round
TINY = 32  # pixels of the shorter side
CUT = 0.5  # share of a photo's area that is worth a finding of its own
WORST = 12  # photos that lose most, shown


def find(context: Context) -> list[Result]:
    """Judge files by their bytes and by their header."""
    return [r for r in (_unreadable(context), _format(context), _crop(context)) if r]


def _unreadable(context: Context) -> Result | None:
    found = [
        Finding("unreadable", _below(path, context.data.root), "", 1.0, why)
        for path, why in sorted(context.unreadable.items())
    ]
    if not found:
        return None
    sentence = f"{several(len(found), 'photo')} can't be decoded, {found[0].path} first"
    advice = "Repair or remove them, or write drop."
    if len(found) > MOST_BROKEN * (len(found) + len(context.samples)):
        advice += f" Training refuses more than {MOST_BROKEN:.0%}."
    return Result("unreadable", sentence, advice, found)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _format(context: Context) -> Result | None:
    """What is unlike the rest: a wrong name, grey, transparent, moving, 16 bits, tiny, long."""
    found, kinds = [], Counter()
    usual = Counter(_odd_mode(file) for file in context.files if file).most_common(1)
    for place in context.used:
        file = context.files[place]
        if file is None:
            continue
        for kind, detail in _oddities(context.path(place), file, usual[0][0]).items():
            kinds[kind] += 1
            score = {"wrong name": 0.9, "tiny": 0.7}.get(kind, 0.4)
            found.append(Finding("format", context.path(place), "", score, detail))
    reasons: dict[str, list[str]] = defaultdict(list)
    for left in context.left_out:
        reasons[left.reason].append(_below(left.path, context.data.root))
        detail = f"left out: {left.reason}"
        found.append(Finding("format", reasons[left.reason][-1], "", 0.2, detail))
    if not found:
        return None
    parts = [f"{count} {kind}" for kind, count in kinds.most_common()]
    parts += [f"{len(paths)} left out ({reason})" for reason, paths in reasons.items()]
    found.sort(key=lambda finding: -finding.score)
    advice = "All are read alike; look whether one class has more of a kind than the others."
    return Result("format", "files: " + ", ".join(parts), advice, found)


def _odd_mode(file: File) -> str:
    if file.deep:
        return "16-bit"
    if file.mode in ("1", "L"):
        return "grey"
    if file.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return "transparent"
    return "CMYK" if file.mode == "CMYK" else ""


def _oddities(path: str, file: File, usual: str) -> dict[str, str]:
    found = {}
    name = Path(path).suffix.lower()
    if EXTENSIONS.get(name) != file.format:
        found["wrong name"] = f"named {name or 'without an extension'}, but it is {file.format}"
    mode = _odd_mode(file)
    if mode and mode != usual:
        found[mode] = f"{mode}, unlike most photos here"
    if file.frames > 1:
        found["animated"] = f"{file.frames} frames, of which the first counts"
    short, long = sorted((file.width, file.height))
    if short < TINY:
        found["tiny"] = f"{file.width}×{file.height} pixels"
    if long > ODD_SHAPE * short:
        found["very long or high"] = (
            f"{file.width}×{file.height} pixels: {long / max(1, short):.1f} to 1"
        )
    return found


def _crop(context: Context) -> Result | None:
    sizes = [(i, file) for i in context.used if (file := context.files[i])]
    shares = sorted(((cut_away(context.see, f.width, f.height), i) for i, f in sizes), reverse=True)
    if not shares or shares[0][0] <= 0:
        return None
    mean = sum(share for share, _ in shares) / len(shares)
    worst = shares[: max(WORST, sum(share >= CUT for share, _ in shares))]
    found = [
        Finding("crop", context.path(i), "", share, f"{share:.0%} of its area is cut away")
        for share, i in worst
        if share > mean or share >= CUT
    ]
    sentence = f"{mean:.0%} of the photos' area is cut away, at most {shares[0][0]:.0%} of one"
    return Result("crop", sentence, "data.fit=squash or pad keeps what lies at the edges.", found)
