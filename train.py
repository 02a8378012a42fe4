"""Train a classifier: compose → build → fit → test → report.

python train.py                                           # with what the install brings
python train.py arch=resnet18 data=folder data.root=PATH  # your own photos
python train.py -m arch=efficientnet_b0,resnet18          # a sweep
python train.py resume=outputs/runs/DATE/RUN              # go on where it stopped
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from thaw.launch import cli, names
from thaw.sweeps import jobs

if TYPE_CHECKING:
    from thaw.training.run import RunFolder

log = logging.getLogger("thaw.train")


@hydra.main(
    version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config"
)
def main(cfg: DictConfig) -> float | None:
    """Do one run, and leave a folder that tells how it ended; returns the best val loss."""
    first = cli.is_first_process()
    from thaw.training.run import RunFolder  # torch is imported from here on

    hydra_cfg = HydraConfig.get()
    run = RunFolder(Path(hydra_cfg.runtime.output_dir), writes=first)
    if hydra_cfg.mode is RunMode.MULTIRUN:
        return jobs.job(run, lambda: begin_or_go_on(cfg, run))
    try:
        return begin_or_go_on(cfg, run)
    except cli.Interrupted as interrupt:
        run.end("interrupted", interrupt)
        log.warning("Interrupted. Go on with: python train.py resume=%s", run)
        raise
    except Exception as error:
        run.end("failed", error)
        sentence = cli.user_sentence(error)
        if cfg.debug:
            log.exception("debug=true shows where:")
        if sentence is None:
            raise
        raise cli.Refused(sentence) from error


def begin_or_go_on(cfg: DictConfig, run: "RunFolder") -> float:
    """Train, unless the folder holds a run that is finished; one that broke off goes on."""
    from thaw.training.run import check_unchanged, plain

    if run.settings is not None and not cfg.resume_with_changes:
        check_unchanged(run.settings, plain(cfg))
    if run.status.get("state") == "done":
        log.info("%s is finished, there is nothing to resume.", run)
        return run.metrics["val/loss"]
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode is RunMode.MULTIRUN and cfg.trainer.devices not in (1, "1"):
        # Further ranks are started with this process's arguments: they'd begin the sweep anew.
        return cli.run_alone(hydra_cfg.overrides.task, hydra_cfg.runtime.output_dir)
    return fit_and_test(cfg, run)


def fit_and_test(cfg: DictConfig, run: "RunFolder") -> float:
    """Build all from the settings, train, test the best epoch, and write the run folder."""
    import torch

    from thaw.data.cache import FeatureCache
    from thaw.evaluation import scores
    from thaw.launch import memory
    from thaw.model import bundle
    from thaw.report import metrics as report
    from thaw.report import terminal
    from thaw.training import lr_find
    from thaw.training.checkpoints import Checkpoints
    from thaw.training.features import Extractor
    from thaw.training.forgetting import Forgetting
    from thaw.training.frozen import FrozenWork
    from thaw.training.history import History
    from thaw.training.module import Classifier, check_optimizer
    from thaw.training.run import plain
    from thaw.training.trainer import make_trainer
    from thaw.training.unfreezing import MONITOR, StagedUnfreezing

    run.claim()

    def seed() -> None:
        cli.check_seed(cfg.seed)
        torch.manual_seed(cfg.seed)  # before the net is built: it may begin with random weights

    _, cache, schedule, optimizer, augment, backbone, data = cli.build_all(
        seed,
        lambda: FeatureCache(**cfg.cache),
        lambda: instantiate(cfg.finetune),
        lambda: check_optimizer(instantiate(cfg.optimizer)),
        lambda: instantiate(cfg.augment),
        lambda: jobs.backbone(cfg.arch),
        lambda: instantiate(cfg.data, seed=cfg.seed).of(run.path).checked(),
    )
    schedule.check(backbone)
    data.ready()  # a download begins when all else is right
    data.transforms, data.augment = backbone.transforms, augment
    torch.manual_seed(cfg.seed)  # the head begins alike however much chance building the net took
    forgetting = Forgetting(backbone, schedule)
    backbone.reset_head(len(data.classes))
    if cfg.trainer.channels_last:
        backbone.arrange(torch.channels_last)
    if cfg.trainer.keep_memory:
        memory.keep_memory()

    staged = StagedUnfreezing(schedule)
    history = History(run.path / "history.csv", staged)
    how = (cfg.trainer.compile, cfg.trainer.fuse)
    module = Classifier(backbone, data.classes, optimizer, cfg.seed, *how)
    extractor = Extractor(cache, backbone, data, cfg.trainer.fuse)
    work = FrozenWork(extractor, schedule, staged)
    saved = Checkpoints(run.checkpoints, staged, history)
    callbacks = [staged, work, history, terminal.Terminal(staged, history), saved]
    trainer = make_trainer(cfg.trainer, run, schedule.epochs, callbacks)
    device = trainer.strategy.root_device
    facts = report.environment(cfg.seed, device) | {"settings": plain(cfg)}
    run.begin(data.describe_splits(), facts)
    extractor.on(trainer)
    if schedule.lr_find:
        lr_find.use_found_lr(module, data, schedule, work, run.path, run.writes)
    if trainer.is_global_zero:
        terminal.show_start(backbone, data, schedule)
        forgetting.before(data, device)

    clock = report.Clock()
    with clock("fit"):
        trainer.fit(module, data, ckpt_path=run.resume_point(module), weights_only=True)
    forgotten = forgetting.after()  # at the end of training: the best epoch may precede the harm
    with clock("test"):
        saved.load_best(module)
        # Val again, of the best epoch: what calibrates the model must not be test.
        trainer.test(module, [data.val_dataloader(), data.test_dataloader()], verbose=False)

    val, test = module.results(0), module.results(1)
    if not trainer.is_global_zero:
        return history.best[MONITOR]
    clock.seconds["seconds/features"] = extractor.seconds
    tested = [data.splits["test"][i] for i in test["index"].tolist()]
    photos = [sample.path for sample in tested]
    alone = HydraConfig.get().mode is RunMode.RUN  # a sweep draws figures of its own
    about = (data.classes, photos, data.root, run.path)
    groups = [sample.group for sample in tested]
    found = scores.report(val, test, *about, groups=groups, figures=alone)
    test["logits"] = test["logits"] / found.temperature  # what the model that leaves will say
    metrics = report.metrics(test, backbone, history, staged, clock.seconds)
    metrics |= forgotten | data.counts() | found.metrics
    metrics["model/bytes"] = bundle.save(
        run.path / "model",
        backbone,
        data.classes,
        metrics=metrics,
        data_sha256=data.digest(),
        white=data.white,
        **found.bundle,
    )
    choices: dict[str, str] = HydraConfig.get().runtime.choices
    settings = {group: choices[group] for group in ("data", "finetune", "optimizer", "augment")}
    settings |= {"arch": names.arch_name(choices["arch"], cfg.arch.name), "seed": cfg.seed}
    settings |= {"batch_size": data.batch_size, "lr": schedule.phases[0].lr}
    report.log_hyperparameters(trainer, settings, metrics)
    run.finish(metrics, report.predictions(test, data))
    terminal.show_result(metrics, found.struggles, run)
    return history.best[MONITOR]


def start() -> None:
    """Let Hydra see what `resume=RUN` stands for, and begin."""
    # argparse, which reads them, wants `-m` before what it applies to.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = cli.resume_arguments(arguments)
    names.register_resolvers(sys.argv[1:])
    main()
    if jobs.failures:
        sys.exit(1)


if __name__ == "__main__":
    cli.command(start)
