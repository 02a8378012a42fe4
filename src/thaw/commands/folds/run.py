"""k folds: each photo is tested by a net that hasn't seen it, so figures stand on all photos.

A fold is an ordinary run in `RUN/folds/N`: its photos are its test split, and val, which chooses
the epoch and calibrates, is cut from the others. The run's own folder holds what they come to
together. A test split that is given isn't in the folds; it stays closed.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from omegaconf import DictConfig

from thaw.checks import quick
from thaw.commands.folds import ensemble
from thaw.commands.folds.refit import refit, wanted
from thaw.commands.one_run import Parts, build, one_run
from thaw.data.folder import PhotoFolder
from thaw.data.listing.listed import few
from thaw.data.splits import NAMES, cut, folds, together
from thaw.errors import UserError
from thaw.evaluation import out_of_fold
from thaw.launch import cli
from thaw.report import loggers, pooled, terminal
from thaw.report import metrics as report
from thaw.report.board import result
from thaw.report.page import write as page
from thaw.runs.folder import RunFolder
from thaw.sweeps import jobs
from thaw.training.trainer import make_trainer
from thaw.training.unfreezing import MONITOR

log = logging.getLogger(__name__)


def run_folds(
    cfg: DictConfig, run: RunFolder, choices: Mapping[str, str], sweep: bool = False
) -> float:
    """Train and test a net a fold, and write what they come to; finished folds are skipped.

    Args:
        choices: the file that each group of settings was given by.
        sweep: whether this is a job of one.

    Returns:
        The mean of the folds' best val losses.

    Raises:
        UserError: photos can't be shared out so, or a fold failed.
    """
    if cfg.trainer.devices not in (1, "1"):
        raise UserError(
            f"Expected trainer.devices=1 with folds, got {cfg.trainer.devices}: folds are trained"
            " one after another, each on one device."
        )
    if cfg.resume_with_changes:
        raise UserError(
            "resume_with_changes can't go with folds: those that are done have other settings;"
            " start a new run."
        )
    run.claim()
    try:
        parts = build(cfg, run.path, sweep=True)
        if cfg.refit == "ensemble":
            ensemble.check(parts.backbone)
        data = parts.data.ready()
        shares = share_out(data, cfg.folds)
        begin(parts, run, shares)
        for number, own in enumerate(shares, start=1):
            _fold(cfg, run, number, own, choices)
        with loggers.closing(parts.loggers):
            return leave(cfg, parts, run, choices, sweep)
    finally:
        if not sweep:
            jobs.nets.clear()


# --- photos ---------------------------------------------------------------------------------------


def share_out(data: PhotoFolder, k: int) -> list[PhotoFolder]:
    """The photos as each fold has them. Copies, and photos of a group, are in one fold.

    Raises:
        UserError: there are too few to do so.
    """
    splits = [split for split in NAMES if split != "test" or "test" in data.cut]
    photos = [sample for split in splits for sample in data.splits[split]]
    photos.sort(key=lambda sample: (sample.label, sample.path))  # however they were split
    alike = data.known.alike([data.root / sample.path for sample in photos])
    keys = together(alike, [sample.group for sample in photos])
    if k > len(set(keys)):
        raise UserError(
            f"Expected folds to be at most {len(set(keys))}, as many as there are photos that may"
            f" be parted (copies, and photos of a group, may not), got {k}."
        )
    fold_of = folds(photos, keys, k, data.seed)
    shares = []
    for number in range(k):
        tested = [s for s, fold in zip(photos, fold_of, strict=True) if fold == number]
        rest = [(s, key) for s, key, f in zip(photos, keys, fold_of, strict=True) if f != number]
        share = min(data.fractions["val"] * len(photos) / len(rest), 0.5)
        train, val = cut([s for s, _ in rest], [key for _, key in rest], share, data.seed)
        missing = {s.label for s in photos} - {s.label for s in train}
        if missing or not val or not tested:
            what = few(sorted(data.classes[label] for label in missing)) or "val or test"
            raise UserError(
                f"Expected photos that {k} folds can share, but fold {number + 1} has none for"
                f" {what} (copies, and photos of a group, stay together); add photos, or take"
                " fewer folds."
            )
        how = {"test": f"a fold of {k}, stratified, seed {data.seed}"}
        how |= {"val": f"{data.fractions['val']:.0%} of the photos, stratified, seed {data.seed}"}
        shares.append(data.shared_out({"train": train, "val": val, "test": tested}, how))
    return shares


# --- the run --------------------------------------------------------------------------------------


def begin(parts: Parts, run: RunFolder, shares: Sequence[PhotoFolder]) -> None:
    """Mark the run as running, and say what is trained on what."""
    data, schedule = parts.data, parts.schedule
    schedule.check(parts.backbone)
    in_folds = {f"fold {i}": own.splits["test"] for i, own in enumerate(shares, start=1)}
    photos = [sample for samples in in_folds.values() for sample in samples]
    quick.before_training(data.shared_out(in_folds, {}), parts.cache, data.wishes.check)
    data.transforms = parts.backbone.transforms
    parts.backbone.reset_head(len(data.classes))
    device = make_trainer(parts.trainer, schedule.epochs, []).strategy.root_device
    split = data.shared_out({"train": photos, "val": [], "test": photos}, {}).describe_splits()
    for photo, number in zip(
        split["test"],
        [i for i, own in enumerate(shares, 1) for _ in own.splits["test"]],
        strict=True,
    ):
        photo["fold"] = number
    run.begin(split, report.environment(parts.seed, device) | {"settings": parts.settings})
    log.info("folds   %d: each photo is tested once, by a net that hasn't seen it;", len(shares))
    log.info("        this is the first of them:")
    terminal.show_start(parts.backbone, shares[0], schedule)
    if "test" not in data.cut:
        photos = f"The test split ({len(data.splits['test'])} photos) is in no fold"
        log.info(
            f"{photos}; the model of all others opens it once."
            if parts.settings["refit"]
            else f"{photos}, and stays closed."
        )


def _fold(
    cfg: DictConfig, run: RunFolder, number: int, own: PhotoFolder, choices: Mapping[str, str]
) -> None:
    """Do one fold, or go on with it; what it has to say goes to the log, but for one line."""
    fold = RunFolder(run.path / "folds" / str(number), run.writes)
    fold.path.mkdir(parents=True, exist_ok=True)
    if fold.status.get("state") != "done":
        try:
            with cli.quiet():
                one_run(
                    cfg,
                    fold,
                    choices,
                    sweep=True,
                    data=own.of(fold.path),
                    keep=lambda test, familiar: out_of_fold.keep(fold.path, test, familiar),
                )
        except Exception as error:
            fold.end("failed", error, keep=True)
            sentence = cli.user_sentence(error)
            if sentence is None:
                raise
            raise UserError(f"Fold {number} of {cfg.folds} failed: {sentence}") from error
        except BaseException as interrupt:  # Interrupted, or how a launcher stops its processes
            fold.end("interrupted", interrupt, keep=True)
            raise
    for checkpoint in fold.checkpoints.glob("*.ckpt"):  # nothing goes on from a finished fold
        checkpoint.unlink()
    found = fold.metrics
    log.info(
        "fold %2d/%d  val acc %5.1f%%  test acc %5.1f%%  (%d photos, best epoch %d)  %5.1f s",
        number,
        cfg.folds,
        100 * found["val/acc"],
        100 * found["test/acc"],
        found["test/images"],
        found["best/epoch"],
        found["seconds/fit"] + found["seconds/test"],
    )


def leave(
    cfg: DictConfig, parts: Parts, run: RunFolder, choices: Mapping[str, str], sweep: bool
) -> float:
    """Write what the folds came to, and the model if one is wanted; the mean val loss."""
    found = out_of_fold.gathered(run.path)
    metrics, struggles = pooled.report(run.path, found, parts.metrics, figures=not sweep)
    metrics |= parts.data.counts()
    if kind := wanted(cfg, run):
        metrics |= refit(kind, cfg, run, parts.data, found, metrics)
    settings = loggers.varying(choices, parts.settings) | {"folds": metrics["folds"]}
    pooled.write_history(run.path)
    run.results(metrics, pooled.predictions(found))
    page.write(run.path)
    told = report.final(metrics, [*parts.metrics])
    tell = partial(result.tell_files, run.path, settings, 0)
    loggers.log_result(parts.loggers, settings, told, 0, run.path, tell)
    run.finish()
    pooled.show(metrics, struggles, run)
    return metrics[MONITOR]
