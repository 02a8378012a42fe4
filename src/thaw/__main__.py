"""`thaw COMMAND …`, also as `python -m thaw COMMAND …`. Nothing here imports torch."""

import difflib
import importlib
import os
import sys

import thaw
from thaw.errors import UserError
from thaw.launch import cli

COMMANDS = {  # in the order in which one needs them; each has a file in `thaw/commands`
    "train": "train a classifier, or with -m a sweep of them",
    "check": "say what is wrong with photos, before anything is trained",
    "best": "find the best model that photos allow, in the minutes there are",
    "predict": "say what photos show",
    "evaluate": "say how good a model is, on its test photos or on others",
    "compare": "say which run is best, and whether that is more than noise",
    "soup": "average the weights of several runs into one model, as long as val gets better",
    "describe": "say what a net is, and what a schedule trains of it when",
    "archs": "list the nets there are, and whether their weights are on this machine",
    "shortlist": "rank nets on your photos before any is fine-tuned",
    "export": "write a model as ONNX and torch.export files",
    "label-next": "choose the photos that would teach a model most, and label them on a page",
    "embed": "write the features that a model finds in photos",
    "serve": "open a page on which a model labels photos",
    "conf": "list the settings there are, or print a file of them to copy and change",
    "benchmark": "measure what training costs on this machine",
    "anchors": "set Thaw's accuracy beside published figures",
}


def run() -> None:
    """Find the command, and do it.

    Raises:
        UserError: there is none of that name.
    """
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name == "--version":
        print(f"thaw {thaw.__version__}")
    elif name in ("-sc", "--shell-completion"):
        complete()
    elif name in COMMANDS:
        if name != "train":
            sys.argv = [f"thaw {name}", *rest]  # argparse says it in its messages
        importlib.import_module(f"thaw.commands.{name.replace('-', '_')}").main()
    else:
        raise UserError(_unknown(name))


def overview() -> str:
    """What `thaw --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items())
    return (
        "usage: thaw COMMAND …\n\nA folder of photos becomes a trustworthy image classifier.\n\n"
        f"{lines}\n\nthaw COMMAND --help tells more. To begin: thaw train; with your own photos:\n"
        "thaw train data=folder data.root=PATH"
    )


def _unknown(name: str) -> str:
    if "=" in name or name in ("-m", "--multirun"):
        return f"Expected a command before settings, got {name!r}: thaw train {name} …"
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    closest = f"; near it is {near[0]}" if near else ""
    return f"Expected a command ({', '.join(COMMANDS)}), got {name!r}{closest}."


def complete() -> None:
    """Answer a shell in which `thaw train -sc install=SHELL` was evaluated: Hydra asks `thaw`."""
    _, *words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) < 2:
        print(" ".join(name for name in COMMANDS if name.startswith("".join(words))))
    elif words[0] == "train":
        os.environ["COMP_LINE"] = " ".join(["thaw", *words[1:]])
        sys.argv.insert(1, "train")
        importlib.import_module("thaw.commands.train").main()


def main() -> None:
    """The console script."""
    cli.command(run)


if __name__ == "__main__":
    main()
