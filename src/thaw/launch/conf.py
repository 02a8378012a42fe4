"""Where settings are: a `conf/` folder in the working directory, then the one that Thaw brings.

Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

import thaw

VERSION = "1.3"  # of Hydra, whose habits Thaw counts on
MARKS = {"arch", "finetune"}  # a config.yaml that doesn't choose from both isn't Thaw's


def folder() -> Path:
    """The settings that Thaw brings: inside the installed package, or at the repository's top."""
    package = Path(thaw.__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def own() -> Path | None:
    """The user's own `conf/` in the working directory; None if it isn't there, or isn't Thaw's.

    Nor is one that lies in a run folder the user's own: it came with the folder.
    """
    path = Path("conf").resolve()
    sent = Path(".hydra").exists() or Path("status.json").exists()
    if sent or not path.is_dir() or path.samefile(folder()) or foreign():
        return None
    return path


def foreign() -> bool:
    """Whether the `conf/` here is another Hydra project's, whose main file isn't one of Thaw's."""
    config = Path("conf", "config.yaml")
    if not config.is_file():
        return False
    try:
        defaults = yaml.safe_load(config.read_text(encoding="utf-8"))["defaults"]
        chosen = {key for item in defaults if isinstance(item, dict) for key in item}
    except Exception:  # whatever a file that isn't one of Thaw's makes its reader raise
        return True
    return not chosen >= MARKS


def groups() -> list[str]:
    """Names of all groups: folders of `conf/`."""
    return sorted(
        {path.name for top in _folders() for path in top.iterdir() if [*path.glob("*.yaml")]}
    )


def options(group: str) -> dict[str, Path]:
    """The files of a group by name; the user's own hide those that Thaw brings."""
    files = [file for top in _folders() for file in (top / group).glob("*.yaml")]
    # `thaw conf finetune/full > conf/finetune/full.yaml` makes an empty one before it asks.
    found = {file.stem: file for file in files if file.is_file() and file.stat().st_size}
    return dict(sorted(found.items()))


def _folders() -> list[Path]:
    mine = own()
    return [folder(), mine] if mine else [folder()]


def unreadable() -> str | None:
    """A sentence on the first of the user's own files that holds no settings; None if all do."""
    mine = own()
    for file in sorted(mine.glob("**/*.yaml")) if mine else []:
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
            reason = None if isinstance(found, dict | None) else f"it is a {type(found).__name__}"
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
        if reason:
            shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
            return f"Expected {shown} to hold settings (KEY: VALUE, in YAML), but {reason}."
    return None


def composed(words: Sequence[str] = (), hydra: bool = False) -> DictConfig:
    """The settings that these words (`KEY=VALUE`) make, and with `hydra` those of Hydra as well."""
    register()
    with initialize_config_dir(str(folder()), version_base=VERSION):
        return compose("config", list(words), return_hydra_config=hydra)


class OwnConf(SearchPathPlugin):
    """Makes Hydra look into the user's `conf/` before it looks into Thaw's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave other Hydra programs of this process alone: their main folder isn't Thaw's."""
        paths = [item.path.removeprefix("file://") for item in search_path.get_path()]
        if str(folder()) in paths and (mine := own()):
            search_path.prepend("own", f"file://{mine}", "main")


def register() -> None:
    """Let Hydra know of the user's own `conf/`; again is harmless."""
    Plugins.instance().register(OwnConf)
