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

from thaw import cli

if TYPE_CHECKING:
    from thaw.run import RunFolder

log = logging.getLogger("thaw.train")


@hydra.main(
    version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config"
)
def main(cfg: DictConfig) -> float | None:
    """Do one run, and leave a folder that tells how it ended; returns the best val loss."""
    first = cli.is_first_process()
    from thaw.run import RunFolder, check_unchanged, plain  # torch is imported from here on

    hydra_cfg = HydraConfig.get()
    multirun = hydra_cfg.mode is RunMode.MULTIRUN
    if multirun and cfg.trainer.devices not in (1, "1"):
        # Further ranks are started with this process's arguments: they'd begin the sweep anew.
        return cli.run_alone(hydra_cfg.overrides.task, hydra_cfg.runtime.output_dir)
    run = RunFolder(Path(hydra_cfg.runtime.output_dir), writes=first)
    try:
        if cfg.resume is not None:
            if run.status.get("state") == "done":
                log.info("%s is finished, there is nothing to resume.", run)
                return None
            if not cfg.resume_with_changes:
                check_unchanged(run.settings, plain(cfg))
        return fit_and_test(cfg, run)
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
        if not multirun:
            raise cli.Refused(sentence) from error
        log.error(sentence)  # at once: Hydra tells of failed jobs after the last one
        raise


def fit_and_test(cfg: DictConfig, run: "RunFolder") -> float:
    """Build all from the settings, train, test the best epoch, and write the run folder."""
    import torch

    from thaw import bundle, lr_find, memory, report, terminal
    from thaw.finetune import MONITOR, StagedUnfreezing
    from thaw.forgetting import Forgetting
    from thaw.module import Classifier, check_optimizer
    from thaw.run import History
    from thaw.trainer import make_trainer

    _, schedule, optimizer, augment, backbone, data = cli.build_all(
        lambda: cli.check_seed(cfg.seed),
        lambda: instantiate(cfg.finetune),
        lambda: check_optimizer(instantiate(cfg.optimizer)),
        lambda: instantiate(cfg.augment),
        lambda: instantiate(cfg.arch),
        lambda: instantiate(cfg.data, seed=cfg.seed).checked(),
    )
    schedule.check(backbone)
    data.ready()  # a download begins when all else is right
    data.transforms, data.augment = backbone.transforms, augment
    torch.manual_seed(cfg.seed)
    forgetting = Forgetting(backbone, schedule)
    backbone.reset_head(len(data.classes))
    backbone.to(memory_format=torch.channels_last)  # the order that convolutions are fast in
    memory.keep_memory()

    staged = StagedUnfreezing(schedule)
    history = History(run.path / "history.csv", staged)
    machine = dict(cfg.trainer)
    module = Classifier(backbone, data.classes, optimizer, cfg.seed, machine.pop("compile"))
    trainer = make_trainer(
        machine,
        run,
        schedule.epochs,
        [staged, history, terminal.Terminal(staged, history)],
    )
    run.begin(data.describe_splits(), report.environment(cfg.seed, trainer.strategy.root_device))
    if schedule.lr_find:
        lr_find.use_found_lr(module, data, schedule, run.path, run.writes)
    if trainer.is_global_zero:
        terminal.show_start(backbone, data, schedule)
        forgetting.before(data, trainer.strategy.root_device)

    clock = report.Clock()
    with clock("fit"):
        trainer.fit(module, data, ckpt_path=run.resume_point(module), weights_only=True)
    forgotten = forgetting.after()  # at the end of training: the best epoch may precede the harm
    with clock("test"):
        run.load_best(module)
        trainer.test(module, data, verbose=False)

    results = module.test_results()
    if not trainer.is_global_zero:
        return history.best[MONITOR]
    metrics = report.metrics(results, backbone, history, staged, clock.seconds) | forgotten
    metrics["model/bytes"] = bundle.save(
        run.path / "model", backbone, data.classes, metrics=metrics, data_sha256=data.digest()
    )
    choices: dict[str, str] = HydraConfig.get().runtime.choices
    settings = {group: choices[group] for group in ("data", "finetune", "optimizer", "augment")}
    settings |= {"arch": cli.arch_name(choices["arch"], cfg.arch.name), "seed": cfg.seed}
    settings |= {"batch_size": data.batch_size, "lr": schedule.phases[0].lr}
    report.log_hyperparameters(trainer, settings, metrics)
    run.finish(metrics, report.predictions(results, data))
    terminal.show_result(metrics, run)
    return history.best[MONITOR]


def start() -> None:
    """Let Hydra see what `resume=RUN` stands for, and begin."""
    cli.register_resolvers()
    # argparse, which reads them, wants `-m` before what it applies to.
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    sys.argv[1:] = cli.resume_arguments(arguments)
    main()


if __name__ == "__main__":
    cli.command(start)
