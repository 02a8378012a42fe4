"""What TensorBoard's TEXT tab says: the question, settings, photos, stages, the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thaw.escape import markdown
from thaw.report.page import facts
from thaw.runs import read


def texts(run: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by tag, of a run whose results are written; tags are in the order of reading."""
    metrics, split = read.metrics(run), read.split(run)
    folds = metrics.get("folds")
    stages = {} if folds else read.read_json(run / "stages.json")
    photos = [facts.imbalance(split), *split.warnings]
    photos += [f"{name.capitalize()} is cut: {how}." for name, how in split.cut.items()]
    photos += [f"Left out: {path} ({why})." for path, why in facts.dropped(split, 10)[0]]
    classes = ", ".join(map(markdown, split.classes[:50])) + " …" * (len(split.classes) > 50)
    return {
        "1 question": f"How well does {markdown(facts.called(run))} tell these apart? {classes}\n\n"
        f"{facts.splits(split, folds)}.",
        "2 verdict": " ".join(map(markdown, facts.verdict(metrics, split))),
        "3 photos": "\n".join(f"- {markdown(line)}" for line in photos if line),
        **({"4 stages": f"{facts.stages(stages)}\n\n{_stages(stages)}"} if stages else {}),
        "5 settings": _table(("setting", "value"), ((k, str(v)) for k, v in settings.items())),
    }


def _stages(told: Mapping[str, Any]) -> str:
    """What trained at which rate, and how far it came."""
    header = ["stage", "parameters", *(phase["name"] for phase in told["phases"]), "moved"]
    rows = []
    for stage in told["stages"]:
        proofs = ["frozen ✓" if phase["verified"] else "frozen" for phase in told["phases"]]
        if stage["name"] == "head":
            solved = [phase.get("solve") for phase in told["phases"]]
            proofs = ["solved" if s else p for s, p in zip(solved, proofs, strict=True)]
        rates = [f"{r:.3g}" if r else p for r, p in zip(stage["lr"], proofs, strict=True)]
        moved = "" if stage["moved"] is None else f"{stage['moved']:.2%}"
        rows.append([stage["name"], f"{stage['parameters']:,}", *rates, moved])
    return _table(header, rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [[*map(markdown, header)], ["---"] * len(header)]
    lines += [[markdown(" ".join(cell.split())) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
