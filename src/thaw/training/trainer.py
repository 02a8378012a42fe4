"""Lightning's Trainer as Thaw uses it."""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import OmegaConf

from thaw.errors import UserError
from thaw.training.checkpoints import AtomicCheckpoints
from thaw.training.plugins import made

# Lightning's advice for cases that Thaw has decided.
ADVICE = (
    r".*does not have many workers.*",  # on few cores they don't help
    r".*number of training batches.*smaller than the logging interval.*",  # all logs are per epoch
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.14: its own business
    r".*The `srun` command is available.*",  # a login node, or a job of one process
    r".*Checkpoint directory .* exists and is not empty.*",  # the run is being resumed
)


OURS = ("compile", "channels_last", "keep_memory", "fuse")  # settings that Lightning doesn't know

# Arguments of Lightning's Trainer that Thaw decides, and by what.
LENGTH = "finetune.phases says how long to train (finetune.phases.PHASE.epochs)"
EPOCHS = "each epoch ends with val, which chooses the best one"
WHOLE = "test is all test photos; for a quick try there is trainer.limit_train_batches"
DECIDED = {
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps"), LENGTH),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), EPOCHS),
    **dict.fromkeys(("limit_test_batches", "fast_dev_run", "overfit_batches"), WHOLE),
    "callbacks": "callbacks is a group of its own (callbacks=NAME, +callbacks.NAME._target_=CLASS)",
    "logger": "logger is a group of its own (logger=tensorboard, csv, mlflow, wandb, none)",
    "enable_checkpointing": "checkpoints are always written, so that resume=RUN can go on",
    "default_root_dir": "hydra.run.dir says where a run is written",
    "use_distributed_sampler": "the photos' own order knows about several devices",
    "barebones": "a run folder is made of what it turns off",
    "sync_batchnorm": "it would replace layers that are frozen",
}


def check_trainer(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, if each is Thaw's or an argument of Lightning's Trainer that it may be given.

    Raises:
        UserError: naming those that aren't.
    """
    known = [name for name in inspect.signature(Trainer).parameters if name not in DECIDED]
    problems = [
        f"trainer.{name} can't be set, since {DECIDED[name]}"
        if name in DECIDED
        else f"trainer.{name} is unknown; Lightning's Trainer has {', '.join(known)}"
        for name in settings
        if name not in (*OURS, *known)
    ]
    problems += [
        f"expected trainer.{name} to be above 0, got {settings[name]!r}"
        for name in ("limit_train_batches", "limit_val_batches")
        if settings.get(name) == 0
    ]
    if problems:
        raise UserError("The trainer settings can't be used: " + "; ".join(problems) + ".")
    return settings


def make_trainer(
    settings: Mapping[str, Any],
    epochs: int,
    callbacks: list[Callback],
    loggers: list[Logger] | None = None,
) -> Trainer:
    """Make the trainer of a run; it prints nothing.

    Args:
        settings: any argument of Lightning's Trainer but those `DECIDED`; precision may also be
            `auto`. Those of `OURS` are left out.
        epochs: at most.

    Raises:
        UserError: this machine can't do what the settings ask for.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # their banners and tips
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in ADVICE:
        warnings.filterwarnings("ignore", message)
    check_trainer(settings)
    settings = {
        name: _made(f"trainer.{name}", value)
        for name, value in settings.items()
        if name not in OURS
    }
    if settings["precision"] == "auto":
        settings |= {"precision": best_precision(settings["accelerator"])}
    try:
        # Lightning would requeue on signals, too; `trainer=slurm` does it (thaw.launch.slurm).
        slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        plugins = settings.pop("plugins", None) or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        defaults = {
            "num_sanity_val_steps": 0,  # the first epoch's val is early enough
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = Trainer(
            **defaults | settings,
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints(), *slurm, *plugins],
            logger=loggers or False,
            use_distributed_sampler=False,  # the data module's samplers know the ranks
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"The trainer settings {settings} can't be used here: {error}") from error
    strategy = trainer.strategy
    several = trainer.world_size > 1
    fit = type(strategy) is DDPStrategy and strategy._ddp_kwargs.get("find_unused_parameters")
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy) or (several and not fit):
        raise UserError(
            f"Expected trainer.strategy to be auto for one device or"
            f" ddp_find_unused_parameters_true for several (trainer=ddp), got"
            f" {settings['strategy']}: others can't freeze and thaw stages of a net that they have"
            " wrapped or cut up."
        )
    return trainer


def _made(where: str, value: Any) -> Any:
    """A setting of Lightning's, or what its `_target_` makes: a profiler, a strategy, a plugin."""
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if isinstance(value, list):
        return [_made(f"{where}.{i}", each) for i, each in enumerate(value)]
    return made(where, value) if isinstance(value, dict) and "_target_" in value else value


def best_precision(accelerator: str) -> str:
    """`bf16-mixed` where the device computes it natively, else `32-true`.

    Weights, and what is saved, are float32 either way.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        native = False
    else:
        found = getattr(torch.cpu, "get_capabilities", dict)()  # the older torch doesn't tell
        native = any(on is True for name, on in found.items() if "bf16" in name)
    return "bf16-mixed" if native else "32-true"
