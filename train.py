"""Train a classifier: compose → build → fit → test → report.

python train.py                                           # with what the install brings
python train.py arch=resnet18 data=folder data.root=PATH  # your own photos
python train.py -m arch=efficientnet_b0,resnet18          # a sweep
python train.py resume=outputs/runs/DATE/RUN              # go on where it stopped
"""

import logging
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from thaw import cli

log = logging.getLogger("thaw.train")


@hydra.main(
    version_base="1.3", config_path=str(Path(__file__).parent / "conf"), config_name="config"
)
def main(cfg: DictConfig) -> float | None:
    """Do one run, and leave a folder that tells how it ended; returns the best val loss."""
    from thaw.run import RunFolder, check_unchanged  # torch is imported from here on

    hydra_cfg = HydraConfig.get()
    run = RunFolder(Path(hydra_cfg.runtime.output_dir))
    try:
        if cfg.resume is not None:
            if run.status.get("state") == "done":
                log.info("%s is finished, there is nothing to resume.", run)
                return None
            if not cfg.resume_with_changes:
                check_unchanged(run.settings, OmegaConf.to_container(cfg))
        return fit_and_test(cfg, run)
    except cli.Interrupted as interrupt:
        run.end("interrupted", interrupt)
        log.warning("Interrupted. Go on with: python train.py resume=%s", run)
        raise
    except Exception as error:
        run.end("failed", error)
        sentence = cli.user_sentence(error)
        if sentence is not None and hydra_cfg.mode.name == "MULTIRUN":
            log.error(sentence)  # at once: Hydra tells of failed jobs after the last one
        if cfg.debug:
            log.exception("debug=true shows where:")
        raise


def fit_and_test(cfg: DictConfig, run: "RunFolder") -> float:  # noqa: F821
    """Build all from the settings, train, test the best epoch, and write the run folder."""
    import torch

    from thaw import bundle, memory, report, terminal
    from thaw.finetune import MONITOR, StagedUnfreezing
    from thaw.module import Classifier
    from thaw.run import History
    from thaw.trainer import make_trainer

    schedule, optimizer, augment, backbone, data = cli.build_all(
        lambda: instantiate(cfg.finetune),
        lambda: instantiate(cfg.optimizer),
        lambda: instantiate(cfg.augment),
        lambda: instantiate(cfg.arch),
        lambda: instantiate(cfg.data, seed=cfg.seed).ready(),
    )
    schedule.check(backbone)
    data.transforms, data.augment = backbone.transforms, augment
    torch.manual_seed(cfg.seed)
    backbone.reset_head(len(data.classes))
    backbone.to(memory_format=torch.channels_last)  # the order that convolutions are fast in
    memory.keep_memory()

    staged = StagedUnfreezing(schedule)
    history = History(run.path / "history.csv", staged)
    module = Classifier(backbone, data.classes, optimizer, cfg.seed)
    trainer = make_trainer(
        OmegaConf.to_container(cfg.trainer),
        run,
        schedule.epochs,
        [staged, history, terminal.Terminal(staged, history)],
    )
    run.begin(data.describe_splits(), report.environment(cfg.seed, trainer.strategy.root_device))
    terminal.show_start(backbone, data, schedule)

    clock = report.Clock()
    with clock("fit"):
        trainer.fit(module, data, ckpt_path=run.last, weights_only=True)
    with clock("test"):
        trainer.test(module, data, ckpt_path=run.best, weights_only=True, verbose=False)

    metrics = report.metrics(module, history, staged, clock.seconds)
    metrics["model/bytes"] = bundle.save(
        run.path / "model", backbone, data.classes, metrics=metrics, data_sha256=data.digest()
    )
    choices = HydraConfig.get().runtime.choices
    settings = {group: choices[group] for group in ("data", "finetune", "optimizer", "augment")}
    settings |= {"arch": cli.arch_name(choices.arch, cfg.arch.name), "seed": cfg.seed}
    settings |= {"batch_size": data.batch_size, "lr": schedule.phases[0].lr}
    report.log_hyperparameters(trainer.logger, settings, metrics)
    run.finish(metrics, report.predictions(module, data))
    terminal.show_result(metrics, run)
    return history.best[MONITOR]


def start() -> None:
    """Let Hydra see what `resume=RUN` stands for, and begin."""
    cli.register_resolvers()
    sys.argv[1:] = cli.resume_arguments(sys.argv[1:])
    main()


if __name__ == "__main__":
    cli.command(start)
