"""Say what a net is, and what trains when: thaw describe ARCH|RUN [--finetune NAME]"""

import argparse
import json
from pathlib import Path

from thaw import files
from thaw.launch import cli
from thaw.screen import say

OWN = "finetune._target_="  # confirms that a schedule which a run names is the user's own


def main() -> None:
    """Read the arguments, describe."""
    parser = argparse.ArgumentParser(
        description="Say what a pretrained net is, and what a schedule trains of it; no weights"
        " are needed."
    )
    parser.add_argument(
        "arch", nargs="?", help="what follows arch= in training: a name in conf/arch; or a run"
    )
    parser.add_argument(
        "--all", action="store_true", help="a table of all archs: head, in_features, size"
    )
    parser.add_argument("--finetune", metavar="NAME", help="also: what this schedule trains when")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings as training takes them, such as arch.name=regnet_y_400mf",
    )
    parser.add_argument(
        "--classes", type=_count, metavar="N", help="with a fresh head for N classes"
    )
    parser.add_argument(
        "--names", action="store_true", help="list every parameter that trains in a phase"
    )
    parser.add_argument(
        "--steps-per-epoch", type=_count, default=20, metavar="N", help="batches in an epoch: 20"
    )
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the learning rates")
    parser.add_argument(
        "--filters", type=Path, metavar="PNG", help="draw the first layer; needs the weights"
    )
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    cli.add_net(parser)
    arguments = parser.parse_args()
    if arguments.all != (arguments.arch is None):
        parser.error("expected ARCH, RUN or --all")
    files.check_outputs(
        ("--figure", arguments.figure, files.PICTURES),
        ("--filters", arguments.filters, files.PICTURES),
    )
    run = Path(arguments.arch or "")
    marks = (run / "model.json", run / "model", run / "status.json")
    trained = not arguments.all and any(mark.exists() for mark in marks)
    overrides = [f"arch={arguments.arch}", *arguments.set]
    if arguments.finetune is not None:
        overrides.append(f"finetune={arguments.finetune}")
    planned = any(override.lstrip("+~").startswith("finetune") for override in overrides)
    own = [word.partition("=")[2] for word in arguments.set if word.startswith(OWN)]
    if trained and (arguments.finetune or len(own) < len(arguments.set) or arguments.classes):
        parser.error("a run has its own settings: describe its arch by name to see others")
    if arguments.figure and not planned and not trained:
        parser.error("--figure draws a schedule's learning rates, so it needs --finetune NAME")

    cli.say_loading()
    from thaw.report import (  # torch is imported from here on, not for --help
        describe,
        filters,
        terminal,
    )
    from thaw.report import rates as rates_figure

    if arguments.all:
        return describe.show_all()
    steps, facts = arguments.steps_per_epoch, {}
    if trained:
        backbone, schedule, told = describe.build_run(run, own)
        planned = schedule is not None
        steps = told.pop("steps", steps)
        chosen = {key: told.pop(key, None) for key in ("arch", "finetune")}
        facts["trained"] = told
    else:
        backbone, schedule, chosen = describe.build(overrides, arguments.filters is not None)
    if arguments.classes is not None:
        backbone.reset_head(arguments.classes)
    facts = {"arch": chosen["arch"], **describe.net_facts(backbone), **facts}
    if arguments.filters:
        filters.draw(arguments.filters, backbone)
    if planned and schedule is not None:
        schedule.check(backbone)
        name = chosen["finetune"]
        length = {"epochs": schedule.epochs, "steps": schedule.epochs * steps}
        plan = describe.schedule_facts(schedule, backbone)
        facts["schedule"] = {"name": name, **length, **plan}
        if arguments.figure:
            title = f"{backbone.origin['name']}, finetune={name}"
            rates_figure.draw(arguments.figure, title, schedule, backbone, steps)
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        rates = terminal.stage_table(backbone, schedule) if schedule else None
        describe.show(facts, rates, arguments.names)
        for file in filter(None, (arguments.filters, arguments.figure)):
            say(f"{'figure':<15} {file}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return number
