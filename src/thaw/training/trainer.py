"""Lightning's Trainer as Thaw uses it."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from thaw.errors import UserError
from thaw.runs.folder import RunFolder
from thaw.training.checkpoints import AtomicCheckpoints

# Lightning's advice for cases that Thaw has decided.
ADVICE = (
    r".*does not have many workers.*",  # on few cores they don't help
    r".*number of training batches.*smaller than the logging interval.*",  # all logs are per epoch
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.14: its own business
    r".*The `srun` command is available.*",  # a login node, or a job of one process
    r".*Checkpoint directory .* exists and is not empty.*",  # the run is being resumed
)


OURS = ("compile", "channels_last", "keep_memory", "fuse")  # settings that Lightning doesn't know


def make_trainer(
    settings: Mapping[str, Any], run: RunFolder, epochs: int, callbacks: list[Callback]
) -> Trainer:
    """Make the trainer of a run: its callbacks, TensorBoard, nothing printed.

    Args:
        settings: accelerator, devices, strategy, precision, as Lightning knows them; precision may
            also be `auto`. Those of `OURS` are left out.

    Raises:
        UserError: this machine can't do what the settings ask for.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # their banners and tips
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in ADVICE:
        warnings.filterwarnings("ignore", message)
    settings = {name: value for name, value in settings.items() if name not in OURS}
    if settings["precision"] == "auto":
        settings |= {"precision": best_precision(settings["accelerator"])}
    try:
        # Lightning would requeue on signals, too; `trainer=slurm` does it (thaw.launch.slurm).
        slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        trainer = Trainer(
            **settings,
            max_epochs=epochs,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints(), *slurm],
            # Curves appear as they grow; and an interruption in the middle of a note to the thread
            # that writes them would wait until that thread looks by itself: every 2 minutes.
            logger=TensorBoardLogger(
                run.path, "tensorboard", "", default_hp_metric=False, flush_secs=5
            ),
            num_sanity_val_steps=0,  # the first epoch's val is early enough
            use_distributed_sampler=False,  # the data module's samplers know the ranks
            enable_progress_bar=False,
            enable_model_summary=False,
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
