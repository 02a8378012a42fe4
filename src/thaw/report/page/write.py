"""`report.html` and the model card, made of nothing but what the run's folder holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thaw.errors import UserError
from thaw.escape import markdown
from thaw.files import write as write_text
from thaw.page.lines import Line, curves, legend, reliability
from thaw.page.pictures import Thumbnails, link
from thaw.page.render import render
from thaw.report.page import facts
from thaw.report.page.matrix import Matrix
from thaw.runs import read
from thaw.runs.folder import RunFolder
from thaw.runs.schema import items, number, record, text

FILE = "report.html"
CARD = "README.md"
NEEDED = ("test/images", "test/acc_low", "test/acc_high", "best/epoch", "epochs", "model/bytes")
NEEDED += ("params/total", "params/trainable", "model/latency_ms")
THUMBNAILS = 320  # of about 4 kB
_evaluation = record({"scores": record({}), "classes": record({}), "struggles": lambda _: None})
_step = record({"at": number(0, 1e9), "what": text(), "said": text(), "so": text()})
_why = record({"log": items(_step)})  # of a search that chose how the run was trained


def write(run: Path) -> Path:
    """Write `report.html` into a finished run's folder, and `README.md` into its bundle.

    Raises:
        UserError: the folder lacks what a finished run leaves, or holds it damaged.
    """
    values = _values(run)
    write_text(run / FILE, render("report/page/run.html", **values))
    if (run / "model" / "model.json").is_file():
        write_text(run / "model" / CARD, _card(values))
    return run / FILE


def _values(run: Path) -> dict[str, Any]:
    metrics, split, history = read.metrics(run), read.split(run), read.history(run)
    if missing := [key for key in NEEDED if key not in metrics]:
        raise UserError(f"{run} is of an earlier Thaw: its metrics.json lacks {missing[0]}.")
    found = read.read_json(run / "evaluation.json", _evaluation)
    environment, answers = read.environment(run), read.predictions(run)
    model = _json(run / "model" / "model.json")
    thumbnails = Thumbnails(split.root, model.get("white"), THUMBNAILS)
    thumbnails.make(row["path"] for key in ("worst", "least_sure") for row in found[key])
    matrix = Matrix(found["confusion"], list(found["classes"]), answers)
    matrix.draw(thumbnails)
    here = str(RunFolder(run))
    stages, folds = _json(run / "stages.json"), metrics.get("folds")
    solved = [bool(phase.get("solve")) for phase in stages.get("phases", [])]
    return {
        "run": here,
        "about": facts.called(run),
        "date": str(read.status(run).get("started", ""))[:16].replace("T", " "),
        "metrics": metrics,
        "found": found,
        "split": split,
        "splits": facts.splits(split, folds),
        "folds": _folds(run),
        "verdict": facts.verdict(metrics, split),
        "charts": _charts(history, None if folds else metrics["best/epoch"]),
        "history": history,
        "matrix": matrix,
        "thumb": thumbnails.of,
        "reliability": reliability(found["reliability"]),
        "confidence": facts.confidence(found, folds),
        "unsure": facts.unsure(found, here if model else ""),
        "unfamiliar": facts.unfamiliar(found),
        "classes": facts.by_class(split, found["classes"]),
        "imbalance": facts.imbalance(split),
        "cut": split.cut,
        "warnings": split.warnings,
        "dropped": facts.dropped(split),
        "stages": stages,
        "solved": solved,
        "why": read.read_json(why, _why)["log"] if (why := run / "why.json").is_file() else [],
        "proof": facts.stages(stages) if stages else "",
        "most_moved": max((s["moved"] or 0 for s in stages.get("stages", [])), default=0),
        "time": facts.time(metrics),
        "environment": facts.environment(environment),
        "commands": facts.commands(run),
        "model": model,
    }


def _json(path: Path) -> dict[str, Any]:
    return read.read_json(path, record({})) if path.is_file() else {}


def _folds(run: Path) -> list[dict[str, Any]]:
    """What each fold came to, with the address of its own report; none where there are none."""
    return [
        {"number": fold.name, "report": link(fold / FILE, run), **read.metrics(fold)}
        for fold in read.folds(run)
    ]


def _charts(history: Sequence[dict[str, Any]], best: int | None) -> dict[str, Any]:
    """Accuracy and loss by epoch, of train and val."""
    edges = [
        (row["epoch"], row["phase"])
        for row, after in zip(history, [*history[1:], {"phase": None}], strict=True)
        if row["phase"] != after["phase"]
    ]
    made: dict[str, Any] = {"phases": len(edges)}
    for key, title in (("acc", "accuracy"), ("loss", "loss")):
        lines = [
            Line(name, [(row["epoch"], row[f"{name}/{key}"]) for row in history], colour)
            for colour, name in ((1, "train"), (0, "val"))
            if all(f"{name}/{key}" in row for row in history)
        ]
        made[title] = curves(title, lines, edges, shares=key == "acc", best=best)
        made["legend"] = legend(lines)
    return made


def _card(values: dict[str, Any]) -> str:
    """The model card: the report's short form, in Markdown."""
    model, found, cost = values["model"], values["found"], values["time"]
    source = model.get("pretrained", {})
    weights = " · ".join(str(v) for v in (source.get("source"), source.get("licence")) if v)
    lines = [
        f"# {markdown(values['about'])}",
        "",
        f"A classifier of photos, trained with Thaw on {values['date'] or 'an unknown date'}.",
        "",
        f"- **It tells apart** {', '.join(map(markdown, model.get('classes', [])))}.",
        f"- **Trained on** {values['splits']}.",
        f"- **Pretrained weights** {markdown(weights) or 'none'}.",
        f"- **Size** {'; '.join(cost[key] for key in facts.SIZE if key in cost)}.",
        f"- **Verdict** {markdown(' '.join(values['verdict']))}",
        f"- **Mistakes** {markdown(found['struggles'])}",
        f"- **Confidence** {markdown(values['confidence'])}",
        f"- **Unsure** {markdown(facts.unsure(found, 'RUN'))}",
        *([f"- **Unfamiliar** {markdown(values['unfamiliar'])}"] if values["unfamiliar"] else []),
        "",
        "These numbers are of test photos of one collection. Photos taken elsewhere, with other"
        " cameras or of other kinds, may be labelled worse: try it on some of your own first.",
        "",
        "```python",
        "import thaw",
        'model = thaw.load("this folder")',
        'for answer in model.predict(["photo.jpg"]):',
        "    print(answer.label, answer.confidence)",
        "```",
        "",
        "The whole report is `report.html` in the run's folder.",
    ]
    return "\n".join(lines) + "\n"
