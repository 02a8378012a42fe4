"""What the terminal shows of an evaluation."""

from typing import Any

from rich import get_console
from rich.table import Table
from rich.text import Text

from thaw.escape import printable
from thaw.evaluation.scores import SETS
from thaw.model.familiar.level import judged
from thaw.screen import say


def show(found: dict[str, Any]) -> None:
    """Print what `evaluate` found."""
    values = found["scores"]
    rows = {
        "accuracy": f"{values['acc']:.1%}  ({_interval(values, 'acc')}, {found['photos']} photos"
        + (f", drawn by their {values['groups']} groups)" if "groups" in values else ")"),
        "balanced": f"accuracy {values['balanced_acc']:.1%}  ({_interval(values, 'balanced_acc')}),"
        f" macro F1 {values['f1']:.1%}  ({_interval(values, 'f1')})",
        "worst class": f"{values['worst_class']}: recall {values['worst_recall']:.1%}"
        f"  ({_interval(values, 'worst_recall')})",
        "calibration": f"ECE {values['ece']:.1%}  ({_interval(values, 'ece')}),"
        f" Brier {values['brier']:.3f}, loss {values['loss']:.3f}",
    }
    if found["temperature"] != 1:
        rows["uncalibrated"] = (
            f"ECE {values['ece_uncalibrated']:.1%}, Brier {values['brier_uncalibrated']:.3f}, loss"
            f" {values['loss_uncalibrated']:.3f}, without temperature {found['temperature']:.2f}"
        )
    else:
        rows["uncalibrated"] = (
            "as it is: val shows no clear error of confidence (likelihood-ratio test, 5%), so"
            " nothing was changed"
        )
    if "ece_uncorrected" in values:
        rows["real mix"] = (
            f"ECE {values['ece_uncorrected']:.1%} without the correction of probabilities for how"
            " often each class really comes (data.balance)"
        )
    if found["sets"]:
        held = found["sets"]
        rows["label sets"] = (
            f"{held['held']:.1%} hold the right label, {held['labels']:.2f} labels each"
            f" ({_interval(held, 'held')}, aimed at {SETS:.0%})"
        )
    if found["unsure"]:
        rows |= _unsure_rows(found["unsure"])
    if found["unfamiliar"]:
        rows |= _unfamiliar_rows(found["unfamiliar"])
    for name, text in rows.items():
        say(f"{name:<13}  {text}")
    print()
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("class")
    for name in ("precision", "recall", "F1", "photos"):
        table.add_column(name, justify="right")
    for name, row in found["classes"].items():
        cells = [_share(row, key) for key in ("precision", "recall", "f1")]
        table.add_row(Text(printable(name)), *cells, str(row["support"]))
    get_console().print(table)
    say("", found["struggles"])


def _unsure_rows(outcome: dict[str, Any]) -> dict[str, str]:
    photos = f"{outcome['unsure']} of {outcome['photos']} photos"
    text = f"{outcome['rejection']:.1%}  ({_interval(outcome, 'rejection')}, {photos}),"
    rows = {"unsure": f"{text} below {outcome['threshold']:.1%}"}
    if outcome["answered"]:
        wrong = f"{outcome['wrong']} of {outcome['answered']} answers"
        rows["wrong"] = f"{outcome['error']:.1%}  ({_interval(outcome, 'error')}, {wrong})"
    promise = outcome["promise"] or {}
    share = promise.get("error") or promise.get("coverage")
    if share and {"certainty", "val/images"} <= promise.keys():
        what = "are wrong" if promise.get("error") else "are answered"
        least = "at most" if promise.get("error") else "at least"
        rows["promised"] = (
            f"{least} {100 * share:.3g}% {what}, with {100 * promise['certainty']:.3g}%"
            f" certainty, from {promise['val/images']} val photos"
        )
    return rows


def _unfamiliar_rows(told: dict[str, Any]) -> dict[str, str]:
    if told["refused"]:
        return {"unfamiliar": f"nothing is called that: {told['refused']}"}
    photos = f"{told['unfamiliar']} of {told['photos']} photos"
    rows = {
        "unfamiliar": f"{told['share']:.1%}  ({_interval(told, 'share')}, {photos}), promised at"
        f" most {100 * told['level']:.3g}% of photos like val's on average"
        + (f"; {judged(told)} photos leave room up to {told['room']:.1%}" if "room" in told else "")
    }
    if told.get("far"):
        far = told["far"]
        noticed = f"{far['noticed']:.1%} of {far['photos']} photos are noticed"
        rows["far photos"] = f"{noticed} ({_interval(far, 'noticed')}), AUROC {far['auroc']:.3f}"
    for name, row in told.get("left_out", {}).items():
        rows[f"without {name}"] = (
            f"{row['noticed']:.0%} of its {row['photos']} photos are noticed, AUROC"
            f" {row['auroc']:.2f} (by confidence {row['noticed_by_confidence']:.0%},"
            f" {row['auroc_of_confidence']:.2f})"
        )
    return rows


def _interval(values: dict[str, Any], key: str) -> str:
    return f"95% interval {values[f'{key}_low']:.1%} to {values[f'{key}_high']:.1%}"


def _share(row: dict[str, Any], key: str) -> str:
    if row[key] is None:
        return "–"
    return f"{row[key]:.1%} ({row[f'{key}_low']:.0%}–{row[f'{key}_high']:.0%})"
