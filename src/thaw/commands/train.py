"""Train a classifier, or a sweep of them: Hydra composes the settings, `one_run` does the rest.

No torch is imported before a run begins: questions about settings are answered at once.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig

from thaw.launch import cli, conf, names, settings
from thaw.launch.build import make
from thaw.launch.mistakes import Before, read, told
from thaw.launch.words import asks
from thaw.runs import trust
from thaw.runs.folder import RunFolder, check_unchanged, plain
from thaw.sweeps import jobs

log = logging.getLogger("thaw.train")


Do = Callable[[DictConfig, RunFolder, Mapping[str, str], bool], float]


def run(cfg: DictConfig, do: Do | None = None) -> float | None:
    """Do one run, and leave a folder that tells how it ended; returns the best val loss.

    Args:
        do: in place of `one_run`.
    """
    first = cli.is_first_process()
    hydra_cfg = HydraConfig.get()
    folder = RunFolder(Path(hydra_cfg.runtime.output_dir), writes=first)
    if hydra_cfg.mode is RunMode.MULTIRUN:
        return jobs.job(folder, lambda: begin_or_go_on(cfg, folder, do))
    try:
        return begin_or_go_on(cfg, folder, do)
    except cli.Interrupted as interrupt:
        folder.end("interrupted", interrupt)
        if do is None:
            log.warning("Interrupted. Go on with: %s resume=%s", cli.door("train"), folder)
        raise
    except Exception as error:
        folder.end("failed", error)
        sentence = cli.user_sentence(error)
        if cfg.debug:
            log.exception("debug=true shows where:")
        if sentence is None:
            raise
        raise cli.Refused(sentence) from error
    except SystemExit as stop:  # by a user's own code
        folder.end("interrupted", stop)
        raise


def begin_or_go_on(cfg: DictConfig, folder: RunFolder, do: Do | None = None) -> float:
    """Train, unless the folder holds a run that is finished; one that broke off goes on."""
    # The schedule needs no torch either.
    cli.build_all(lambda: settings.check(cfg), lambda: make(cfg.finetune, "finetune"))
    from thaw.commands.folds.run import run_folds  # torch is imported from here on
    from thaw.commands.from_run import go_on_from
    from thaw.commands.one_run import one_run

    if not cfg.resume_with_changes:
        check_unchanged(folder, plain(cfg))
    if folder.status.get("state") == "done" and cfg.refit in (None, folder.metrics.get("refit")):
        log.info("%s is finished, there is nothing to resume.", folder)
        return folder.metrics["val/loss"]
    hydra_cfg = HydraConfig.get()
    sweep = hydra_cfg.mode is RunMode.MULTIRUN
    if sweep and cfg.trainer.devices not in (1, "1"):
        # Further ranks are started with this process's arguments: they'd begin the sweep anew.
        return cli.run_alone(hydra_cfg.overrides.task, hydra_cfg.runtime.output_dir)
    choices = dict(hydra_cfg.runtime.choices)
    choices["arch"] = names.arch_name(choices["arch"], cfg.arch.get("name"))
    do = do or (run_folds if cfg.folds else go_on_from if cfg.from_run else one_run)
    return do(cfg, folder, choices, sweep)


def start(words_from: int = 1) -> None:
    """Let Hydra see what `resume=RUN` stands for, and begin.

    Args:
        words_from: where the settings begin in `sys.argv`. All of it stays there: the ranks of a
            run on several devices are started with it.
    """
    # argparse, which reads them, wants `-m` before what it applies to.
    words = sorted(sys.argv[words_from:], key=lambda word: word not in ("-m", "--multirun"))
    words = trust.expanded(read(words))
    sys.argv[words_from:] = words
    if cli.is_first_process() and not asks(words):
        print("Reading the settings, then PyTorch is loaded …", flush=True)
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a `_target_` may be the user's own
    names.register_resolvers(words)
    conf.register()
    setbase(conf.VERSION)
    parser = get_args_parser()
    # As `hydra.main` does it, which reads `sys.argv`.
    try:
        with told(words):
            _run_hydra(parser.parse_args(words), parser, run, str(conf.folder()), "config")
    except OSError as error:
        place = Before.last
        if place and cli.is_first_process() and not (place / "status.json").exists():
            RunFolder(place).end("failed", error)  # Hydra itself could not write there
        raise
    finally:
        names.remove_empty()  # where a sweep was refused
    if jobs.failures:
        sys.exit(1)


def main() -> None:
    """`thaw train`."""
    start(words_from=2)
