"""`thaw COMMAND`: what it lists, what it refuses, and settings of the user's own."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import REPO

from thaw import __main__ as door
from thaw.launch import cli, conf

MINE = "# Mine: longer.\ndefaults: [head_only]\nphases: {head: {epochs: 9}}\n"


@pytest.fixture
def thaw(tmp_path, monkeypatch, capsys):
    """Call `thaw WORDS` in an empty folder: → code, out, err."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["/bin/thaw", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            door.main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write a file below `conf/` in the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, text=MINE):
        file = tmp_path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


# --- commands -------------------------------------------------------------------------------------


def test_help_lists_the_commands_in_order_and_imports_no_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "thaw", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == [*door.COMMANDS]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "hydra", "omegaconf", "rich", "matplotlib", "numpy"} & imported


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *("evaluate RUN", "predict RUN RUN/a.jpg", "embed RUN RUN/a.jpg --output a.npy"),
        *("export RUN", "label-next RUN RUN", "serve RUN --port 0", "archs", "describe resnet18"),
        *("shortlist", "check data=folder data.root=RUN"),
    ],
)
def test_before_torch_is_loaded_something_is_said_or_refused(tmp_path, words):
    (tmp_path / "torch.py").write_text("import os\nos._exit(7)\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "a.jpg").touch()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "thaw", *words.replace("RUN", "run").split(" ")]
    told = []
    for name in ("none", "model.json", "weights.safetensors"):
        (run / name).touch()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        told.append((done.returncode, done.stderr, done.stdout))
    assert told[-1] == (7, "Loading PyTorch …\n", "")
    needed = "RUN" in words and "data" not in words
    assert told[0][0] == told[1][0] == (2 if needed else 7)
    assert not needed or "Expected a run folder or a bundle in run" in told[0][1]


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_alone_it_prints_the_help(thaw, words):
    done = thaw(*words)
    assert (done.code, done.out.splitlines()[0]) == (0, "usage: thaw COMMAND …")


def test_every_command_has_a_file_and_every_script_a_command(thaw):
    files = {p.stem for p in (REPO / "src" / "thaw" / "commands").glob("*.py")}
    assert {name.replace("-", "_") for name in door.COMMANDS} <= files
    scripts = {path.stem for path in (REPO / "scripts").glob("*.py")}
    assert scripts == {*cli.SCRIPTS} <= {name.replace("-", "_") for name in door.COMMANDS}


@pytest.mark.parametrize("name", [name for name in door.COMMANDS if name != "train"])
def test_usage_names_the_door_that_was_used(thaw, name):
    done = thaw(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: thaw {name} ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "near it is train."),
        (["shrotlist", "a"], "near it is shortlist."),
        (["xyz"], "got 'xyz'."),
        ([""], "got ''."),
        (["arch=resnet18"], "thaw train arch=resnet18"),
        (["-m", "seed=1,2"], "thaw train -m"),
        (["--hepl"], "got '--hepl'"),
    ],
)
def test_what_is_no_command_is_refused(thaw, words, said):
    done = thaw(*words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("thaw", {"train", "predict"}),
        ("thaw pr", {"predict"}),
        ("thaw train optimizer=ad", {"optimizer=adam", "optimizer=adamw"}),
        ("thaw predict x", set()),
    ],
)
def test_the_shell_completes_what_hydra_completes(thaw, monkeypatch, line, completed):
    monkeypatch.setenv("COMP_LINE", line)
    done = thaw("-sc", "query=bash")
    assert done.code in (0, None)
    assert completed <= {*done.out.split()}
    assert bool(completed) == bool(done.out.strip())


@pytest.mark.parametrize(
    ("argv0", "said"),
    [
        ("/usr/bin/thaw", "thaw predict"),
        ("/site-packages/thaw/__main__.py", "thaw predict"),
        ("ipykernel_launcher.py", "thaw predict"),
        ("train.py", "python scripts/predict.py"),
        ("/repo/scripts/evaluate.py", "python scripts/predict.py"),
    ],
)
def test_what_to_type_next_is_what_works_here(monkeypatch, argv0, said):
    monkeypatch.setattr(sys, "argv", [argv0])
    assert cli.door("predict") == said


# --- settings -------------------------------------------------------------------------------------


def test_conf_lists_every_file_with_what_it_says(thaw):
    lines = thaw("conf").out.splitlines()
    groups = [line.removesuffix("=") for line in lines if line.endswith("=")]
    assert groups == sorted({p.parent.name for p in (REPO / "conf").glob("*/*.yaml")})
    files = [line for line in lines if line.startswith("  ")]
    assert len(files) == len([*(REPO / "conf").glob("*/*.yaml")])
    assert all(len(line.split(maxsplit=1)) == 2 for line in files), "each says something"
    assert not any("@package" in line for line in files)


def test_conf_prints_a_file_as_it_is(thaw):
    file = REPO / "conf" / "finetune" / "gradual.yaml"
    for name in ("finetune/gradual", "finetune/gradual.yaml"):
        assert thaw("conf", name).out == file.read_text()
    assert thaw("conf", "config").out == (REPO / "conf" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [("finetune/gradul", "near it is finetune/gradual"), ("finetun", "near it is finetune")],
)
def test_conf_refuses_what_there_is_not(thaw, name, said):
    done = thaw("conf", name)
    assert done.code == 2
    assert said in done.err


@pytest.mark.slow
def test_a_file_of_ones_own_is_found_listed_and_wins(thaw, mine):
    mine("finetune/mine.yaml")
    said = "# Mine, which a second\n# line ends. No more.\n"
    mine("optimizer/adam.yaml", f"{said}_target_: torch.optim.Adam\n_partial_: true\neps: 0.5\n")
    listed = [line.split() for line in thaw("conf", "finetune").out.splitlines()]
    assert ["mine", "(yours)", "Mine:", "longer."] in listed
    assert "(yours) Mine, which a second line ends.\n" in thaw("conf", "optimizer").out
    settings = thaw("train", "finetune=mine", "--cfg", "job").out
    assert "epochs: 9" in settings
    assert "eps: 0.5" in settings
    assert "mine" in thaw("train", "--help").out
    # In Python, for describe and for shortlist, too.
    assert conf.composed(["finetune=mine"]).finetune.phases.head.epochs == 9


def test_an_empty_file_is_none_for_it_is_being_written(thaw, mine):
    mine("finetune/gradual.yaml", "")  # thaw conf finetune/gradual > conf/finetune/gradual.yaml
    assert "ULMFiT" in thaw("conf", "finetune/gradual").out


def test_a_config_of_ones_own_sets_the_defaults(thaw, mine):
    mine("config.yaml", (REPO / "conf" / "config.yaml").read_text().replace("seed: 42", "seed: 7"))
    assert "\nseed: 7" in "\n" + thaw("train", "--cfg", "job").out


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [_self_, {data: mnist}, {model: cnn}, {trainer: gpu}]\n",
        "seed: 1\n",
        "- 1\n",
        "a: [\n",
        b"\xff\xfe",
        "",
    ],
)
def test_the_conf_of_another_program_is_left_alone(thaw, mine, text):
    mine("config.yaml", text)
    mine("data/shapes.yaml", "_target_: src.data.MNIST\n")
    assert "thaw.data.folder.PhotoFolder" in thaw("train", "--cfg", "job").out
    assert "isn't looked into" in thaw("conf").out


def test_the_repositorys_conf_is_not_taken_twice(monkeypatch):
    monkeypatch.chdir(REPO)
    assert conf.own() is None
    assert conf.folder() == REPO / "conf"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1,\n b: {", "conf/finetune/bad.yaml"),
        ("- 1\n", "finetune"),
        (b"\xff\xfe\x00", "conf/finetune/bad.yaml"),
        ("x: 1\n", "finetune"),
        ("# nothing\n", "finetune"),
        ("_target_: nowhere.Thing\n", "nowhere.Thing"),
        ("_target_: torch.nn.Linear\nin_features: 1\nout_features: 1\n", "finetune"),
        ("_target_: torch.nn.Linear\nnope: 1\n", "finetune"),
        ("defaults: [gone]\n", "finetune/gone"),
        ("a: ${nowhere}\n_target_: thaw.training.schedule.Schedule\n", "nowhere"),
    ],
)
def test_a_file_that_makes_nothing_is_one_sentence(thaw, mine, tmp_path, text, said):
    mine("finetune/bad.yaml", text)
    done = thaw("train", "finetune=bad", "arch=small_cnn")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not [*tmp_path.glob("outputs/**/status.json")]


def test_what_reads_no_further_is_no_mistake(tmp_path):
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = f"{sys.executable} -m thaw conf | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "arch=\n", "")
