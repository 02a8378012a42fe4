"""The nets in `conf/arch`: size, accuracy, licence, and whether their weights are here."""

import importlib.util
from typing import Any

from omegaconf import OmegaConf
from rich import get_console
from rich.table import Column, Table

from thaw.launch import cli, conf
from thaw.nets.backbone import Backbone
from thaw.nets.weights import PACKAGED, on_this_machine
from thaw.nets.without_memory import WithoutMemory
from thaw.report.describe import build


def facts() -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each net, and a sentence for each file that makes none. Nothing is downloaded.

    `weights` is where they are: "here", "by pip", "by download", or "none" of a net to train from
    scratch.
    """
    rows, broken = [], {}
    for arch, file in conf.options("arch").items():
        try:
            if OmegaConf.is_missing(OmegaConf.load(file), "name"):
                continue  # it stands for a library
            backbone = _built(arch)
        except Exception as error:  # of any class: a user's own file, or his own code
            sentence = cli.user_sentence(error) or f"{type(error).__name__}: {error}"
            broken[arch] = " ".join(sentence.split())
            continue
        meta, name = backbone.meta, backbone.origin["name"]
        rows.append(
            {
                "arch": arch,
                "parameters": sum(p.numel() for p in backbone.parameters()),
                "pixels": backbone.input_size,
                "accuracy": meta.get("accuracy"),
                "licence": meta.get("licence"),
                "weights": _where(name, meta) if backbone.pretrained else "none",
            }
        )
    return rows, broken


def _built(arch: str) -> Backbone:
    """The net, for its facts alone."""
    try:
        with WithoutMemory():
            return build([f"arch={arch}"])[0]
    except Exception:  # the user's own code may compute with what it builds
        return build([f"arch={arch}"])[0]


def _where(name: str, meta: dict[str, Any]) -> str:
    if name in PACKAGED:
        return "here" if importlib.util.find_spec(PACKAGED[name][0]) else "by pip"
    if meta.get("url") is None:  # a file, or code of the user's own
        return "here"
    return "here" if on_this_machine(meta["url"], name) else "by download"


def show(rows: list[dict[str, Any]], broken: dict[str, str]) -> None:
    """Print them for people, the smallest first."""
    whole: dict[str, Any] = {"no_wrap": True}
    right: dict[str, Any] = whole | {"justify": "right"}
    numbers = [Column(name, **right) for name in ("parameters", "pixels", "ImageNet\ntop-1")]
    columns = (Column("arch", **whole), *numbers, "licence", Column("weights", **whole))
    table = Table(*columns, header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for row in sorted(rows, key=lambda row: row["parameters"]):
        known = f"{row['accuracy']:.1f}%" if row["accuracy"] else "-"
        size = f"{row['parameters'] / 1e6:.1f} M"
        licence = row["licence"] or "-"
        table.add_row(row["arch"], size, str(row["pixels"]), known, licence, row["weights"])
    console = get_console()
    console.print(table)
    for name, sentence in broken.items():
        line = f"{name}: {sentence}"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
