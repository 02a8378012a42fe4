"""What folders of runs and of a sweep's jobs are called: readable, unique, safe for file systems.

Nothing here imports torch: Hydra asks before a run begins.
"""

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def register_resolvers(arguments: Sequence[str] = ()) -> None:
    """Make the resolvers of `conf/hydra/default.yaml` known, for this command line."""
    from omegaconf import OmegaConf

    from thaw.launch.slurm import job_id

    name = functools.partial(job_name, varying=varying(arguments))
    OmegaConf.register_new_resolver("run_dir", claimed_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_name", name, replace=True)
    OmegaConf.register_new_resolver("arch_name", arch_name, replace=True)
    # Cached: what a launcher starts elsewhere has another id, and belongs to the same sweep.
    OmegaConf.register_new_resolver("slurm_job", job_id, use_cache=True, replace=True)


def varying(arguments: Sequence[str]) -> list[str]:
    """Keys to which a sweep's command line gives several values.

    >>> varying(["-m", "arch=resnet18,vgg11", "seed=1", "optimizer.lr=range(1,3)"])
    ['arch', 'optimizer.lr']
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    words = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException:  # Hydra will say what is wrong with it
        return []
    return [override.key_or_group for override in overrides if override.is_sweep_override()]


def run_dir(wanted: str) -> str:
    """`wanted`, or with _2, _3, … behind it where two runs begin in the same second."""
    path, number = wanted, 2
    while Path(path).exists():
        path, number = f"{wanted}_{number}", number + 1
    return path


def claimed_dir(wanted: str) -> str:
    """As `run_dir`, and the folder is made: of two processes, each gets its own."""
    while True:
        path = Path(run_dir(wanted))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        _claimed.append(path)
        return str(path)


_claimed: list[Path] = []  # by this process


def remove_empty() -> None:
    """Remove the folders that this process has claimed, and put nothing into."""
    while _claimed:
        with suppress(OSError):
            _claimed.pop().rmdir()


def arch_name(choice: str, name: str | None) -> str:
    """What an arch is called in folder names and tables: "timm" alone would say nothing.

    >>> arch_name("timm", "resnet18.a1_in1k"), arch_name("resnet18", "resnet18")
    ('resnet18.a1_in1k', 'resnet18')
    """
    return job_name([name]) if choice in ("timm", "torchvision") and name else choice


def job_name(
    overrides: Sequence[str], params: Mapping[str, Any] | None = None, varying: Sequence[str] = ()
) -> str:
    """A sweep job's folder name: what varies in the sweep, safe for every file system.

    Args:
        overrides: the job's, as `key=value`.
        params: what the sweeper's configuration varies, by key.
        varying: keys that the command line varies.

    >>> job_name(["data=mine", "arch=resnet18", "seed=1"], None, ["arch", "seed"])
    'arch=resnet18,seed=1'
    >>> job_name(["arch.weights=../weights/a.pth", "seed=1"])
    'arch.weights=a.pth,seed=1_a5a07bcf'
    """
    keys = {*varying, *(params or {})}
    kept = [o for o in overrides if o.lstrip("+~").partition("=")[0] in keys]
    name = ",".join(kept or overrides)
    short = re.sub(r"[^,=]*[/\\\\]", "", name)  # of paths, the last part
    safe = re.sub(r"[^\w.,=+-]+", "_", short)[:150] or "job"
    if safe == name:
        return safe
    return f"{safe}_{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
