"""README.md and docs/: links lead somewhere, settings exist, and commands do what they say."""

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO, call_train, make_photos, paint

from docs import reference

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
NOT_RUN = {  # what a command begins with, and why no test runs it
    "python3 -m venv": "it is what CI begins with",
    ".venv/bin/": "CI runs these",
    "pip install": "it changes the environment",
    "tensorboard": "it serves until Ctrl-C",
    "curl": "it asks a server that isn't there; tests/model/test_serve.py does it",
    "mkdir": "there is nothing to say of it",
    "thaw serve": "it serves until Ctrl-C; tests/model/test_serve.py",
    "thaw shortlist": "it goes through all nets; tests/shortlist",
    "thaw train -sc": "bash evaluates it; tests/commands/test_thaw.py",
    "thaw train resume=": "tests/training/test_resume.py",
    "thaw train from_run=": "tests/commands/test_from_run.py",
    "thaw best": "it takes the minutes that it is given; tests/best",
    "thaw soup": "tests/sweeps/test_soup.py",
    "thaw label-next RUN FOLDER --count 50 --page": "it serves until Ctrl-C",
    "thaw compare": "tests/comparison/test_compare.py",
    "thaw predict RUN PHOTOS --threshold 0.9": "its figure takes 64 photos at most",
}


def blocks(*kinds: str) -> list[tuple[str, str]]:
    """Code of these kinds, with the page's name."""
    found = ((page, BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES)
    return [(page.name, code) for page, all_ in found for kind, code in all_ if kind in kinds]


def commands() -> list[str]:
    """Lines of all blocks of bash, and settings in running text, without comments."""
    lines = [
        line.partition(" #")[0].partition(" > ")[0].strip()
        for page, code in blocks("bash")
        if page != "configuration.md"
        for line in code.replace("\\\n", "").splitlines()
    ]
    for page in PAGES:
        lines += re.findall(r"`(thaw train [^`…]*=[^`…]*)`", page.read_text(encoding="utf-8"))
    short = (line.replace("outputs/runs/DATE/RUN", "RUN") for line in lines if line)
    return [*dict.fromkeys(short)]


def run_by(line: str) -> bool:
    return not any(line.startswith(begin) for begin in NOT_RUN)


TRAIN = [line for line in commands() if line.startswith("thaw train") and run_by(line)]
OTHERS = [line for line in commands() if not line.startswith("thaw train") and run_by(line)]


def test_the_readme_is_short_and_begins_with_what_ci_runs():
    lines = (REPO / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert next(line for line in lines if line.endswith("-m pytest")).startswith("python3 -m venv")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    def anchors(text: str) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", re.sub(BLOCK, "", text), re.M)
        return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}

    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(BLOCK, "", text)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        other = (page.parent / path) if path else page
        assert other.exists(), link
        if anchor:
            assert anchor in anchors(other.read_text(encoding="utf-8")), link


def test_the_reference_of_settings_is_that_of_conf():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), reference.__doc__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_says_what_it_is(page):
    fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.M)
    assert all(fences[::2]), "a block without a language is neither run nor told why not"


def test_yaml_is_yaml_and_python_is_python():
    for page, code in blocks("yaml"):
        assert yaml.safe_load(code) is not None or page == "configuration.md", code
    for page, code in blocks("python"):
        compile(code, page, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAIN)
def test_settings_exist(line, tmp_path):
    """Composed, not trained: most would take minutes, and some would download."""
    shutil.copytree(REPO / "conf" / "finetune", tmp_path / "conf" / "finetune")
    (tmp_path / "conf" / "finetune" / "gradual.yaml").rename(tmp_path / "conf/finetune/mine.yaml")
    words = [word for word in shlex.split(line)[2:] if word not in ("-m", "--multirun")]
    single = [re.sub(r",(?![^\[]*\]).*", "", word) for word in words]  # the first of several
    done = call_train(tmp_path, *single, "--cfg", "job")
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, and photos for all that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    photos = make_photos(folder / "PATH", train=40, test=6)
    tiny = ["arch=small_cnn", "arch.width=4", "arch.input_size=32", "data=folder"]
    how = ["trainer=cpu", "trainer.precision=32-true", "finetune.phases.head.epochs=2"]
    done = call_train(folder, *tiny, f"data.root={photos}", *how)
    assert done.code == 0, done.err
    shutil.copytree(done.run, folder / "RUN")
    for name in ("PHOTOS", "PHOTO_OR_FOLDER", "OTHER_PHOTOS", "DIR"):
        shutil.copytree(photos / "test", folder / name)
    for i in range(8):  # of no class yet
        paint(folder / "FOLDER" / f"{i}.jpg", (120, 30 * i, 60), 9000 + i)
    shutil.copy(next(photos.glob("test/*/*.jpg")), folder / "PHOTO")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_commands_do_what_they_say(place, monkeypatch, call_script):
    monkeypatch.chdir(place)
    for line in OTHERS:
        program, name, *words = shlex.split(line)
        assert program == "thaw", f"{line}: run it, or say in NOT_RUN why not"
        if name == "conf":  # no script of its own
            from thaw.commands import conf

            monkeypatch.setattr("sys.argv", ["thaw conf", *words])
            conf.main()
            continue
        importlib.import_module(f"scripts.{name.replace('-', '_')}")
        done = call_script(name.replace("-", "_"), *words)
        # So few photos can't promise much, and it says so.
        assert done.code == 0 or "can't promise" in done.err, f"{line}: {done.err}"


@pytest.mark.slow
def test_the_readmes_python_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copytree(place / "PATH", place / "photos")
    shutil.copy(place / "PHOTO", place / "photo.jpg")
    ((_, code),) = [block for block in blocks("python") if block[0] == "README.md"]
    quick = '"arch=small_cnn", "arch.input_size=32", "finetune.phases.head.epochs=1"'
    code = code.replace('"arch=resnet18", "finetune=last_block"', quick)
    code = code.replace('data="photos/", **{', 'arch="small_cnn", data="photos/", **{')
    names: dict[str, Any] = {}
    exec(compile(code.replace('.epochs": 10', '.epochs": 1'), "README.md", "exec"), names)
    assert Path(names["run"].path).is_dir()
