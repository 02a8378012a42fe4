"""A shortlist from words to files: probe each net, tell it, and write the table and the figure."""

import logging
import re
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from rich import get_console
from rich.console import Console

from thaw.data.cache import FeatureCache
from thaw.errors import UserError
from thaw.files import write_csv
from thaw.launch import cli, memory, names
from thaw.launch.build import make
from thaw.nets.fit import seen
from thaw.nets.pretrained import made
from thaw.nets.weights import without_loading
from thaw.shortlist import figure, table
from thaw.shortlist.rank import probe, rank
from thaw.shortlist.words import Net, read
from thaw.training.probe.folds import fold_of_each
from thaw.training.probe.inputs import USED
from thaw.training.trainer import make_trainer

log = logging.getLogger(__name__)


def report(words: Sequence[str], out: Path | None = None, csv: str | None = None) -> bool:
    """Probe each net, write `shortlist.csv` and `shortlist.png`, print; False where a net failed.

    Args:
        words: `KEY=VALUE`, see `thaw.shortlist.words.read`.
        out: where files go; by default a new folder in outputs/shortlist.
        csv: another file for the table, or `-` for the screen instead of the table.

    Raises:
        UserError: a word can't be used, or the photos can't.
    """
    wanted = read(words)
    cfg = wanted.nets[0].cfg
    out = out or Path(names.run_dir(f"outputs/shortlist/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    cache, data, trainer, *_ = cli.build_all(
        lambda: FeatureCache(**cfg.cache),
        lambda: make(cfg.data, "data", seed=cfg.seed).checked(),
        lambda: make_trainer(cfg.trainer, 1, [], []),
        *(partial(_check, net) for net in wanted.nets),
    )
    if trainer.world_size > 1:
        raise UserError(f"Expected one device, but trainer.devices={cfg.trainer.devices} are more.")
    data.ready()
    if cfg.trainer.keep_memory:
        memory.keep_memory()
    samples = [sample for split in USED for sample in data.splits[split]]
    alike = data.known.alike([data.root / sample.path for sample in samples])
    folds = fold_of_each(samples, data.classes, wanted.folds, cfg.seed, alike)
    console = Console(stderr=True) if csv == "-" else get_console()
    table.show_start(console, data, len(samples), wanted.folds)
    probed, failed = [], []
    for net in wanted.nets:
        began = time.perf_counter()
        try:
            probed.append(probe(net, cache, data, trainer, folds))
        except Exception as error:
            log.debug("%s", net.name, exc_info=error)
            reason = _sentence(error, net) or f"{type(error).__name__}: {error}"
            table.show_failed(console, net, reason)
            failed.append(net.name)
        else:
            table.show_probed(console, probed[-1], time.perf_counter() - began)
    if probed:
        board = rank(probed, failed)
        rows = table.rows(board)
        write_csv(out / "shortlist.csv", rows)
        if csv == "-":
            print((out / "shortlist.csv").read_text(encoding="utf-8"), end="")
        elif csv is not None:
            write_csv(Path(csv), rows)
        figure.draw(board, out / "shortlist.png")
        table.show(console, board, wanted.shared, out)
    return not failed


def _check(net: Net) -> None:
    """See that a net's settings and files are right, before anything is downloaded or computed."""
    try:
        with without_loading():
            made(net.cfg.arch, **seen(net.cfg.data))
    except Exception as error:
        sentence = _sentence(error, net)
        if sentence is None:
            raise
        raise UserError(f"{net.name}: {sentence}") from error


def _sentence(error: Exception, net: Net) -> str | None:
    """The sentence for a user's mistake, with the word that sets this net's weights here."""
    sentence = cli.user_sentence(error)
    return sentence and re.sub(r"(?<![\w./])arch\.weights", f"archs.{net.name}.weights", sentence)
