"""One model of several: their weights averaged, as long as that makes val better.

The greedy soup of Wortsman et al. 2022 ("Model soups", arXiv 2203.05482): the best run on val comes
first, then each other one stays in if the average with it is at least as good. It works where runs
began with the same weights and differ in how they went on, and costs nothing when it predicts.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.errors import UserError
from thaw.evaluation import scores
from thaw.evaluation.answers import Answers
from thaw.evaluation.evaluate import Labelled, answer, own_photos, read_split
from thaw.evaluation.terminal import show
from thaw.evaluation.unfamiliar import on_known
from thaw.files import write_json
from thaw.model import bundle
from thaw.model.familiar import store
from thaw.runs import read
from thaw.runs.finished import Run, find
from thaw.screen import say


def soup(runs: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Average finished runs of one net, and write the model that came out, judged on test once.

    Args:
        runs: run folders, or folders of runs.
        out: where `model/`, `metrics.json`, `evaluation.json`, `soup.json` and `figures/` go; by
            default `soup` in the first of `runs`.

    Returns:
        What is in `metrics.json`.

    Raises:
        UserError: there are fewer than two runs, or they aren't of one net and the same photos.
    """
    found, unfinished = find(runs)
    for run in unfinished:
        say(f"left out: {run.path} ({run.state})")
    found.sort(key=lambda run: run.metrics["val/loss"])
    _check_alike(found)
    out = out or runs[0] / "soup"
    first, split = found[0].path, read_split(found[0].path)
    model = bundle.load(first)
    photos = {name: own_photos(split, name, model.classes) for name in ("train", "val", "test")}
    model, parts, tried = _greedy(model, found, photos["val"])
    train, val, test = (answer(model, photos[name], name) for name in ("train", "val", "test"))
    familiar = store.fit(
        train.features, train.labels, val.features, train.photos, str(photos["train"].root)
    )
    said = [{"logits": answers.logits, "label": answers.labels} for answers in (val, test)]
    told = scores.report(
        said[0],
        said[1],
        model.classes,
        test.photos,
        test.root,
        out,
        test.groups,
        prior=model.prior,
        unfamiliar=on_known(familiar, test.features),
    )
    tested = scores.scores(told.test["logits"], test.labels, told.test["predicted"])
    metrics = {f"test/{key}": value for key, value in tested.items()} | told.metrics
    metrics |= {"val/loss": tried[-1]["best"], "val/acc": float(val.correct.float().mean())}
    metrics |= {"test/images": len(test.labels), "soup/runs": len(parts)}
    kept = {key: model.info[key] for key in ("data_sha256", "white") if key in model.info}
    model.backbone.meta = {k: v for k, v in model.info.get("pretrained", {}).items() if v}
    saved = (out / "model", model.backbone, model.classes, familiar)
    metrics["model/bytes"] = bundle.save(*saved, metrics=metrics, **kept, **told.bundle)
    write_json(out / "split.json", read.read_json(first / "split.json"))
    write_json(out / "soup.json", {"runs": [str(run) for run in parts], "tried": tried})
    write_json(out / "metrics.json", metrics)
    alone = len(parts) == 1
    say(f"soup           {'the best run alone' if alone else f'{len(parts)} of {len(found)} runs'}")
    show(read.read_json(out / "evaluation.json"))
    say("", "written, to be used as a run's is", f"  {out / 'model'}")
    return metrics


def _check_alike(runs: Sequence[Run]) -> None:
    """Raise UserError unless weights can be averaged, and val be trusted to say whether to."""
    if len(runs) < 2:
        raise UserError(f"Expected two finished runs or more to average, got {len(runs)}.")
    infos = [read.read_json(bundle.bundle(run.path) / "model.json") for run in runs]
    cut = (
        "where val is cut from train, each seed cuts another: sweep with one, or name a val folder"
    )
    needed = {
        "arch": "of one net; averages of others mean nothing",
        "classes": "of the same classes; averages of others mean nothing",
        "data_sha256": f"with the same train and val photos; {cut}",
    }
    for run, info in zip(runs[1:], infos[1:], strict=True):
        for key, what in needed.items():
            if info.get(key) != infos[0].get(key):
                raise UserError(f"{run.path} doesn't go with {runs[0].path}: expected runs {what}.")


def _greedy(
    model: bundle.Model, runs: Sequence[Run], val: Labelled
) -> tuple[bundle.Model, list[Path], list[dict[str, Any]]]:
    """The model with the soup's weights, the runs in it, and what was tried.

    Args:
        model: of the first run, which is the best.
    """
    net = model.backbone.net
    total, parts = _weights(net), [runs[0].path]
    best = _loss(answer(model, val, "val"))
    tried = [{"run": str(runs[0].path), "loss": best, "best": best, "kept": True}]
    say(f"val loss       {best:.4f}  {runs[0].path}")
    for run in runs[1:]:
        own = _weights(bundle.load(run.path).backbone.net)
        both = {name: total[name] + own[name] for name in total}
        _put(net, both, len(parts) + 1)
        loss = _loss(answer(model, val, "val"))
        kept = loss <= best
        if kept:
            total, best = both, loss
            parts.append(run.path)
        tried.append({"run": str(run.path), "loss": loss, "best": best, "kept": kept})
        say(f"{'' if kept else 'left out':<15}{loss:.4f}  with {run.path}")
    _put(net, total, len(parts))
    return model, parts, tried


def _weights(net: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of all numbers that can be averaged, in float64."""
    return {n: t.double() for n, t in net.state_dict().items() if t.is_floating_point()}


@torch.no_grad()
def _put(net: torch.nn.Module, total: dict[str, Tensor], count: int) -> None:
    """Make the net's weights a sum of so many, divided by them."""
    state = net.state_dict()
    for name, tensor in total.items():
        state[name].copy_(tensor / count)


def _loss(answers: Answers) -> float:
    """Cross-entropy before any temperature, as it chooses the epoch of a run."""
    return float(F.cross_entropy(replace(answers, temperature=1.0).calibrated, answers.labels))
