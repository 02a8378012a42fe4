"""Every file of conf/ composes and builds what it says; typing errors are told, not ignored."""

import re
import subprocess
import sys
from copy import copy, deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import REPO, WithoutMemory
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from thaw.data.folder import PhotoFolder
from thaw.launch import names
from thaw.nets.backbone import Backbone
from thaw.nets.state import checkpoint
from thaw.training.schedule import Schedule

CONF = REPO / "conf"
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/**/*.yaml")
)
EPOCHS = {
    "head_only": 5,
    "probe": 1,
    "last_block": 5 + 3,
    "probe_last_block": 1 + 10,
    "probe_full": 1 + 3,
    "full": 5 + 3,
    "gradual": 5 + 3 + 3,
    "converge": 20 + 3,
    "from_scratch": 5,
}
# What the user must say, in the files that reach many.
NEEDED = {
    ("arch", "torchvision"): "arch.name=regnet_y_400mf",
    ("arch", "timm"): "arch.name=test_vit",
    ("data", "folder"): "data.root=photos",
    ("data", "table"): "data.file=labels.csv",
    ("experiment", "capstone"): "data.root=photos",
}


TOGETHER = ("arch", "augment", "data", "finetune", "optimizer", "trainer")


def options(group: str) -> list[str]:
    return [name for found, name in OPTIONS if found == group]


@cache
def compose_once(*overrides: str) -> tuple[DictConfig, DictConfig]:
    names.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    own = copy(cfg)
    with open_dict(own):
        del own["hydra"]
    return own, cfg


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """The settings that these overrides make, and with `hydra` those of Hydra as well."""
    return deepcopy(compose_once(*overrides)[hydra])


def choose(group: str, name: str) -> DictConfig:
    """The settings with this option, with what it needs to be said, and with an option of others.

    They are composed together, as each composition takes its time.
    """
    chosen = {group: name}
    if group in TOGETHER:
        row = options(group).index(name)
        chosen = {other: options(other)[row % len(options(other))] for other in TOGETHER}
    needed = [NEEDED[item] for item in chosen.items() if item in NEEDED]
    return composed(*(f"{other}={option}" for other, option in chosen.items()), *needed)


def schedule(*overrides: str) -> Schedule:
    return instantiate(composed(*overrides).finetune)


def shipped(name: str) -> Schedule:
    return instantiate(choose("finetune", name).finetune)


# --- every file -----------------------------------------------------------------------------------


def test_the_groups_are_those_of_the_readme():
    groups = {"arch", "augment", "data", "experiment", "finetune", "optimizer", "trainer"}
    assert {group for group, _ in OPTIONS} >= groups


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_file_composes_and_every_value_resolves(group: str, name: str):
    if group == "hydra":
        chosen = composed(f"{group}={name}", hydra=True)
        assert chosen.hydra.runtime.choices.hydra == name
        return
    chosen = choose(group, name)
    values = OmegaConf.to_container(chosen, resolve=True, throw_on_missing=True)
    assert {"seed", "arch", "data", "augment", "optimizer", "finetune", "trainer"} <= set(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_begins_with_its_command_and_all_its_jobs_compose(name: str):
    needed = [NEEDED[key] for key in [("experiment", name)] if key in NEEDED]
    words = [f"experiment={name}", *needed]
    first, command, expected, *_ = (CONF / "experiment" / f"{name}.yaml").read_text().split("\n")
    assert first == "# @package _global_"
    assert command.startswith(f"# python train.py experiment={name}")
    assert expected.startswith("# ")
    space = composed(*words, hydra=True).hydra.sweeper.params or {}
    sweeps = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in space.items()])
    for override in sweeps:
        if override.is_choice_sweep():
            for value in override.sweep_string_iterator():
                composed(*words, f"{override.key_or_group}={value}")
        else:
            composed(*words, f"{override.key_or_group}={override.value().start}")


@pytest.mark.parametrize("name", options("arch"))
def test_every_arch_is_built_as_its_file_says(name: str):
    cfg = choose("arch", name).arch
    assert cfg.weights == (None if name == "small_cnn" else "DEFAULT"), "pretrained if it can be"
    cfg.weights = None
    with WithoutMemory():
        backbone = instantiate(cfg)
    assert isinstance(backbone, Backbone)
    assert backbone.origin["name"] == cfg.name

    claim = re.search(r"([\d.]+) M parameters", (CONF / "arch" / f"{name}.yaml").read_text())
    if name in ("small_cnn", "torchvision", "timm"):
        assert claim is None, "there is nothing to claim"
    else:
        count = sum(map(backbone.num_parameters, backbone.stages))
        assert claim is not None
        assert float(claim[1]) == pytest.approx(count / 1e6, abs=0.051)


def test_the_default_arch_needs_no_network(monkeypatch: pytest.MonkeyPatch):
    import socket

    def fail(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", fail)
    backbone = instantiate(composed().arch)
    assert backbone.pretrained
    assert backbone.origin["kwargs"] == {"drop_rate": 0.2}
    assert backbone.origin["name"] == "tf_efficientnet_lite0"


def test_an_arch_takes_a_file_of_weights(weights):
    path = weights("shufflenet_v2_x0_5")
    cfg = composed("arch=torchvision", "arch.name=shufflenet_v2_x0_5", f"arch.weights={path}")
    own = instantiate(cfg.arch).net.state_dict()
    state = checkpoint.read(path)
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("name", options("data"))
def test_every_data_set_is_described(name: str):
    cfg = choose("data", name)
    data = instantiate(cfg.data, seed=cfg.seed)
    assert isinstance(data, PhotoFolder)
    assert data.seed == cfg.seed
    assert (data.source is None) == (name in ("folder", "table")), "it comes from somewhere"


@pytest.mark.parametrize("name", options("augment"))
def test_every_augmentation_makes_a_photo_of_a_photo(name: str):
    augment = instantiate(choose("augment", name).augment)
    image = augment(Image.linear_gradient("L").convert("RGB"))
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"


def test_nothing_is_augmented_unless_asked_for():
    image = Image.linear_gradient("L").rotate(90).convert("RGB")
    assert instantiate(composed().augment)(image) is image


@pytest.mark.parametrize("name", options("optimizer"))
def test_every_optimizer_takes_groups_with_rates_of_their_own(name: str):
    make = instantiate(choose("optimizer", name).optimizer)
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = make(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.1, 0), strict=True)]
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0]
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(parameters[0], torch.ones(2))
    assert torch.equal(parameters[1], torch.ones(2))


@pytest.mark.parametrize("name", options("optimizer"))
def test_an_optimizer_file_says_nothing_of_time(name: str):
    given = choose("optimizer", name).optimizer
    assert not {"lr", "epochs", "max_epochs"} & set(given)


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_has_the_same_keys(name: str):
    assert set(choose("trainer", name).trainer) == set(choose("trainer", "auto").trainer)


# --- schedules ------------------------------------------------------------------------------------


def test_the_schedules_are_those_that_are_tested_here():
    assert set(options("finetune")) == set(EPOCHS)


@pytest.mark.parametrize(("name", "epochs"), EPOCHS.items())
def test_the_epochs_of_a_schedule_are_the_sum_of_its_phases(name: str, epochs: int):
    made = shipped(name)
    assert made.epochs == epochs == sum(phase.epochs for phase in made.phases)


@pytest.mark.parametrize("name", sorted(set(EPOCHS) - {"from_scratch"}))
def test_schedules_begin_with_the_head_solved_or_at_the_lessons_rate(name: str):
    first = shipped(name).phases[0]
    assert (first.name, first.train) == ("head", "head")
    assert first.solve == name.startswith("probe")
    assert first.lr == (0 if first.solve else 1e-3)


@pytest.mark.parametrize("name", sorted(set(EPOCHS) - {"from_scratch"}))
def test_pretrained_statistics_stay_unless_asked_otherwise(name: str):
    assert shipped(name).batch_norm == "eval"


def test_gradual_goes_backwards_from_the_head():
    assert [phase.train for phase in shipped("gradual").phases] == ["head", 1, "all"]


def test_a_phase_can_be_left_out_on_the_command_line():
    made = schedule("finetune=gradual", "~finetune.phases.all")
    assert [phase.name for phase in made.phases] == ["head", "last"]
    assert made.epochs == 5 + 3


def test_a_phase_can_be_changed_on_the_command_line():
    made = schedule(
        "finetune=gradual",
        "finetune.phases.head.lr=3e-3",
        "finetune.phases.all.epochs=9",
        "finetune.batch_norm=train",
    )
    assert [phase.lr for phase in made.phases] == [3e-3, 3e-4, 1e-4]
    assert made.epochs == 5 + 3 + 9
    assert made.batch_norm == "train"


def test_a_phase_can_be_added_on_the_command_line():
    made = schedule("+finetune.phases.more={train: [stem, head], epochs: 2, lr: 1e-4}")
    assert [phase.name for phase in made.phases] == ["head", "more"]
    assert made.phases[1].train == ["stem", "head"]


def test_a_phase_can_get_what_its_file_does_not_mention():
    made = schedule("+finetune.phases.head.warmup=1", "+finetune.phases.head.anneal=cosine")
    assert (made.phases[0].warmup, made.phases[0].anneal) == (1, "cosine")


# --- who wins -------------------------------------------------------------------------------------


def test_the_defaults_are_what_the_install_brings():
    choices = composed(hydra=True).hydra.runtime.choices
    assert (choices.arch, choices.data) == ("efficientnet_lite0", "shapes")
    assert (choices.finetune, choices.optimizer, choices.augment) == ("head_only", "adam", "none")
    assert choices.experiment is None


def test_an_experiment_wins_over_the_defaults():
    choices = composed("experiment=lesson", hydra=True).hydra.runtime.choices
    assert (choices.arch, choices.data) == ("efficientnet_b0", "pizza_steak_sushi")
    assert choices.optimizer == "adam", "what it doesn't mention stays"


@pytest.mark.parametrize("order", [1, -1])
def test_the_command_line_wins_over_an_experiment(order: int):
    arguments = ["experiment=lesson", "arch=resnet18", "seed=7", "finetune.phases.head.epochs=2"]
    cfg = composed(*arguments[::order])
    assert cfg.arch.name == "resnet18"
    assert cfg.seed == 7
    assert cfg.finetune.phases.head.epochs == 2
    assert cfg.data.root == "data/pizza_steak_sushi", "the experiment's"


def test_a_value_of_an_experiment_wins_over_config_yaml(tmp_path: Path):
    """Experiments come last in the defaults, so that their plain values count as well."""
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nseed: 5\noptimizer: {weight_decay: 0.5}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    place = f"hydra.searchpath=[file://{tmp_path}]"
    cfg = composed(place, "experiment=mine")
    assert (cfg.seed, cfg.optimizer.weight_decay) == (5, 0.5)
    assert composed(place, "experiment=mine", "seed=6").seed == 6


@pytest.mark.parametrize(
    "override",
    ["sead=1", "data.batchsize=3", "finetune.phase.head.lr=1", "trainer.gpus=1", "optimiser=adam"],
)
def test_an_unknown_key_does_not_compose(override: str):
    with pytest.raises(ConfigCompositionException):
        composed(override)


# --- through train.py -----------------------------------------------------------------------------


ASK = """
import runpy, sys
script, questions = sys.argv[1], [line.split() for line in sys.argv[2:]]
for question in questions:
    sys.argv = ["train.py", *question]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, stop.code
    print("IMPORTED", *{name.partition(".")[0] for name in sys.modules})
"""


def test_questions_about_settings_are_answered_without_torch(tmp_path: Path):
    questions = {
        "--help": "finetune: converge, from_scratch, full, gradual, head_only, last_block, probe",
        "--cfg job arch=resnet18": "name: resnet18",
        "--cfg job --resolve data=shapes": "root: data/shapes_45_15",
    }
    command = [sys.executable, "-c", ASK, str(REPO / "train.py"), *questions]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rest = done.stdout
    for question, expected in questions.items():
        printed, _, rest = rest.partition("IMPORTED")
        imported, _, rest = rest.partition("\n")
        assert expected in printed, question
        assert {"hydra", "thaw"} <= {*imported.split()}, "train.py did run"
        heavy = {"torch", "torchvision", "lightning", "timm", "matplotlib"}
        assert not heavy & {*imported.split()}, question
    assert list(tmp_path.iterdir()) == [], "a question leaves nothing behind"
