"""A finished run's folder without a run: what pages are made of, drawn by chance."""

import random
from pathlib import Path

import torch
from PIL import Image

from thaw.evaluation.answers import Answers
from thaw.evaluation.scores import facts
from thaw.files import write_csv, write_json

NASTY = [
    '<script>alert("a")</script>',
    "مرحبا",
    "b" * 90,
    "=cmd|' /C calc'!A0",
    "a\udcff\u202e</b>",
]


def run(folder: Path, classes: int, each: int, photos: bool = True, history: bool = True) -> Path:
    """Write a run of so many classes of so many test photos; returns its folder."""
    chance, torch_chance = random.Random(0), torch.Generator().manual_seed(0)
    names = [*NASTY, *(f"kind {i:03d}" for i in range(classes))][: max(2, classes)]
    labels = [i % classes for i in range(classes * each)]
    paths = [f'test/{i % classes}/{i} <i>&".png' for i in range(len(labels))]
    root = folder / "photos"
    for i, path in enumerate(paths if photos else []):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (7 * labels[i] % 255, 80, 160)).save(root / path)
    logits = 2 * torch.randn(len(labels), classes, generator=torch_chance)
    logits[torch.arange(len(labels)), labels] += 5
    answers = Answers(logits, torch.tensor(labels), names, paths, root)
    found = facts(answers)
    found["unfamiliar"] = {"refused": "3 val photos can't promise anything"}
    write_json(folder / "evaluation.json", found)
    listed = [{"path": p, "label": names[i]} for p, i in zip(paths, labels, strict=True)]
    split = {"root": str(root), "classes": names, "train": listed, "val": listed, "test": listed}
    split |= {"dropped": [{"path": "<b>.jpg", "reason": "no photo"}], "warnings": ["Look <b>here."]}
    write_json(folder / "split.json", split | {"cut": {"val": "15% of the photos"}})
    scores = found["scores"]
    metrics = {f"test/{key}": scores[key] for key in ("acc", "acc_low", "acc_high", "ece")}
    metrics |= {"test/images": len(labels), "val/acc": 0.5, "val/loss": 0.9, "best/epoch": 2}
    metrics |= {"epochs": 3, "seconds/fit": 75.0, "seconds/epoch": 25.0, "seconds/test": 1.0}
    metrics |= {"seconds/features": 0.5, "model/bytes": 10**7, "model/latency_ms": 12.3}
    metrics |= {"params/total": 10**6, "params/trainable": 10**4, "frozen/unchanged": True}
    write_json(folder / "metrics.json", metrics)
    rows = [
        {"epoch": i + 1, "phase": "head" if i < 2 else "all", "val/loss": 1 - 0.1 * i}
        | {"val/acc": 0.4 + 0.1 * i}
        | ({"train/loss": chance.random(), "train/acc": chance.random()} if history else {})
        for i in range(3)
    ]
    write_csv(folder / "history.csv", rows)
    write_csv(
        folder / "predictions.csv",
        [
            {"path": p, "label": names[i], "prediction": names[j], "confidence": c}
            for p, i, j, c in zip(
                paths,
                labels,
                answers.predicted.tolist(),
                answers.confidence.tolist(),
                strict=True,
            )
        ],
    )
    stages = [
        {"name": "stem", "parameters": 900, "lr": [0.0, 1e-5], "moved": 0.012},
        {"name": "head", "parameters": 99, "lr": [1e-3, 1e-5], "moved": None},
    ]
    phases = [
        {"name": name, "epochs": 2, "until": None, "verified": True, "changed": []}
        for name in ("head", "all")
    ]
    told = {"pretrained": True, "unchanged": True, "phases": phases, "stages": stages}
    write_json(folder / "stages.json", told)
    settings = {"arch": {"name": "resnet18"}, "data": {"root": "photos of <x>"}}
    write_json(folder / "environment.json", {"settings": settings, "device": "cpu", "threads": 1})
    write_json(folder / "status.json", {"state": "done", "started": "2026-01-01T10:00"})
    (folder / "model").mkdir()
    write_json(folder / "model" / "model.json", {"classes": names})
    return folder
