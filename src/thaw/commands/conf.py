"""What settings there are: thaw conf [GROUP[/NAME]]"""

import argparse
import difflib
import re
from pathlib import Path

from thaw.errors import UserError
from thaw.launch import cli, conf


def main() -> None:
    """Read the argument, list or print."""
    parser = argparse.ArgumentParser(
        description="List the settings that have a name, in groups; or print one's file, to copy:"
        f" {cli.door('conf')} finetune/gradual > conf/finetune/mine.yaml; then"
        f" {cli.door('train')} finetune=mine finds it, in a folder conf/ where you are.",
    )
    parser.add_argument("name", nargs="?", metavar="GROUP[/NAME]", help="such as finetune/gradual")
    name = (parser.parse_args().name or "").strip("/").removesuffix(".yaml")
    groups = {group: conf.options(group) for group in conf.groups()}
    files = {f"{group}/{key}": file for group in groups for key, file in groups[group].items()}
    files |= conf.options("")  # config.yaml itself
    if name in files:
        print(files[name].read_text(encoding="utf-8"), end="")
    elif name in groups or not name:
        print(listing({name: groups[name]} if name else groups))
        if conf.foreign():
            print("\nconf/config.yaml here is another program's: its folder isn't looked into.")
    else:
        raise UserError(_unknown(name, [*files, *groups]))


def listing(groups: dict[str, dict[str, Path]]) -> str:
    """A line a name, with what its file says first; the user's own are marked."""
    mine, lines = conf.own(), []
    width = max(len(name) for files in groups.values() for name in files) + 2
    for group, files in groups.items():
        lines.append(f"{group}=")
        for name, file in files.items():
            yours = "(yours) " if mine and file.is_relative_to(mine) else ""
            lines.append(f"  {name:<{width}}{yours}{about(file)}".rstrip())
    return "\n".join(lines)


def about(file: Path) -> str:
    """What a file's first comment line begins to say, to the end of its sentence.

    Left out is where its settings go, and its own command.
    """
    first, said = 0, ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        comment = re.match(r"# ?(?!@package|python train\.py|thaw train)(\S.*)", line)
        if comment:
            said = f"{said} {comment[1].rstrip()}".lstrip()
            first = first or len(said)
        elif first:
            break
    sentence = re.match(rf".{{{max(first - 1, 0)}}}.*?(?<=[.?!])(?= |$)", said)
    return sentence[0] if sentence else said


def _unknown(name: str, known: list[str]) -> str:
    group = name.partition("/")[0]
    near = difflib.get_close_matches(name, known, n=1)
    within = [key.partition("/")[2] for key in known if key.startswith(f"{group}/")]
    valid = f"{group} has" if within else "groups are"
    return (
        f"Expected the name of settings, got {name!r}{f'; near it is {near[0]}' if near else ''};"
        f" {valid} {', '.join(within or conf.groups())}."
    )
