"""Write docs/configuration.md from what stands in conf/: python docs/reference.py"""

import re
from pathlib import Path

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs" / "configuration.md"
ABOUT = {
    "arch": "what is pretrained",
    "data": "on what it trains",
    "augment": "what varies in training only",
    "optimizer": "which rule moves the weights",
    "finetune": "what trains when",
    "trainer": "on which machine",
    "loss": "what is made small",
    "metrics": "what else is measured",
    "logger": "where it is logged",
    "callbacks": "what else is called",
    "experiment": "a combination of all, which answers a question",
    "hydra": "where runs go",
}
START = """# Every setting

Made by `python docs/reference.py` from the files in `conf/`: change those. `GROUP=NAME` chooses a
file, and `GROUP.KEY=VALUE` changes a value in it: `thaw train arch=resnet18 data.batch_size=16`.
`thaw conf` lists the groups, and `thaw conf GROUP/NAME` prints a file to copy. A key that a file
doesn't have needs a `+`: `+trainer.gradient_clip_val=1.0`.
"""


def page() -> str:
    """The reference, as Markdown: a chapter a group, the comments of each file with it."""
    conf = REPO / "conf"
    parts = [START, _file("The main file", conf / "config.yaml")]
    groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
    for group in sorted(groups, key=[*ABOUT].index):
        files = sorted((conf / group).glob("*.yaml"))
        parts.append(f"## {group}\n\n{ABOUT[group].capitalize()}.\n")
        parts += [_file(f"`{group}={file.stem}`", file, "###") for file in files]
    return "\n".join(parts)


def _file(title: str, file: Path, level: str = "##") -> str:
    text = re.sub(r"\A# @package _global_\n", "", file.read_text(encoding="utf-8")).strip()
    return f"{level} {title}\n\n```yaml\n{text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
