"""What a machine refuses: made for real, told in a sentence, and the state that is left is true."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import jobs, state

from thaw import files
from thaw.data import shapes
from thaw.errors import UserError
from thaw.files import FOLDER, PICTURES, beside, check_outputs, remove_left_overs, reserve
from thaw.launch import cli, failures


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond it: every writer, native ones too, meets a limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk of its own with these options; skips where that isn't allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no disk of one's own: mounting needs root")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def left_overs(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".hydra"]


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_run_that_cannot_write_on_says_so_and_is_failed(train, short, size):
    """At 1,000 bytes `split.json` is refused already, at 100,000 the first checkpoint."""
    with largest_file(size):
        done = train(*short, "cache.enabled=false", "hydra.run.dir=run")
    assert done.code == 2
    assert "File too large" in done.err or "file too large" in done.err
    assert "Traceback" not in done.err + done.out
    assert not Path("run").exists() or state(Path("run")) == "failed"
    assert not Path("run").exists() or left_overs(Path("run")) == []


def test_a_full_disk_ends_a_run_in_a_sentence(train, short, disk):
    """TensorBoard's thread, torch's writer and the log all meet it."""
    place = disk("size=1m")
    done = train(*short, "cache.enabled=false", f"hydra.run.dir={place}/run")
    assert done.code == 2
    assert "o space left on device" in done.err
    assert "make room" in done.err
    assert "Traceback" not in done.err + done.out
    assert "Exception in thread" not in done.err + done.out
    assert state(place / "run") == "failed"
    assert left_overs(place) == []


def test_the_state_is_told_on_a_disk_without_a_byte_left(disk):
    place = disk("size=64k")
    status = place / "status.json"
    files.write_json(status, {"state": "running", "why": "a" * 100})
    with pytest.raises(OSError, match="No space"), (place / "fill").open("wb") as file:
        file.write(b"0" * 100_000)
    with pytest.raises(OSError, match="No space"):
        files.write_json(status, {"state": "failed"})
    files.write_over(status, {"state": "failed"})
    assert state(place) == "failed"
    assert {path.name for path in place.iterdir()} == {"status.json", "fill"}


@pytest.mark.slow
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_place_that_cannot_be_written_is_refused_before_anything(train, short, disk, key):
    Path("file").touch()
    many = ["-m", "seed=1,2"] if "sweep" in key else []
    wrong = {"file": "it is a file", "file/run": "file is a file", "a" * 300: "name too long"}
    for place, why in wrong.items():
        done = train(*many, *short, f"{key}={place}")
        assert done.code == 2
        assert key in done.err
        assert why in done.err
        assert "Traceback" not in done.err
    assert [path.name for path in Path().iterdir()] == ["file"]
    done = train(*many, *short, f"{key}={disk('ro')}/run")
    assert done.code == 2
    assert "read-only file system" in done.err


@pytest.mark.slow
def test_a_job_on_a_full_disk_fails_and_says_so(train, short, disk):
    place = disk("size=1m")
    done = train("-m", *short, "seed=1,2", "cache.enabled=false", f"hydra.sweep.dir={place}/sweep")
    assert done.code in (1, 2)
    assert "o space left on device" in done.out + done.err
    assert "Traceback" not in done.err + done.out
    assert {state(run) for run in jobs(place / "sweep").values()} == {"failed"}


@pytest.mark.slow
def test_features_that_cannot_be_kept_are_computed_each_epoch(train, short, disk):
    done = train(*short, f"cache.dir={disk('size=16k')}/cache")
    assert done.code == 0, done.err
    assert state(done.run) == "done"


# --- what commands write --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("predict", "--csv", "a.csv"),
        ("predict", "--json", "a.json"),
        ("predict", "--figure", "a.png"),
        ("predict", "--explain", "a.png"),
        ("predict", "--output", "a.csv"),
        ("describe", "--figure", "a.png"),
        ("describe", "--filters", "a.png"),
        ("compare", "--out", "a"),
        ("compare", "--markdown", "a.md"),
        ("evaluate", "--out", "a"),
        ("export", "--out", "a"),
        ("shortlist", "--csv", "a.csv"),
        ("shortlist", "--out", "a"),
    ],
)
def test_outputs_are_seen_to_before_the_work(call_script, tmp_path, command, option, name):
    (tmp_path / "file").touch()
    here = [tmp_path]
    given = {"describe": ["resnet18", "--finetune", "full"], "shortlist": []}.get(command, here)
    photos = here if command == "predict" else []
    began = time.monotonic()
    done = call_script(command, *given, *photos, option, tmp_path / "file" / name)
    assert done.code == 2
    assert option in done.err
    assert "file is a file" in done.err
    assert time.monotonic() - began < 5


def test_an_output_has_a_suffix_and_a_place(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    wrong = {
        "--csv": (tmp_path / "folder.csv", (".csv",), "it is a folder"),
        "--json": (tmp_path / "a.txt", (".json",), "ends in .json"),
        "--figure": (tmp_path / "a.jpg", PICTURES, "ends in .png or .svg or .pdf"),
        "--out": (tmp_path / "file", FOLDER, "it is a file"),
        "--markdown": (Path("/proc/nowhere/a.md"), (".md",), "no such file or directory"),
    }
    with pytest.raises(UserError) as refused:
        check_outputs(*((option, path, kinds) for option, (path, kinds, _) in wrong.items()))
    lines = str(refused.value).split("\n")
    for line, (option, (_, _, why)) in zip(lines, wrong.items(), strict=True):
        assert option in line
        assert why in line
    check_outputs(("--csv", tmp_path / "new" / "er" / "a.csv", (".csv",)), ("--json", "-", ("",)))
    check_outputs(("--csv", None, (".csv",)))
    assert {path.name for path in tmp_path.iterdir()} == {"folder.csv", "file"}, "nothing is made"


RUN = Path(__file__).parents[1] / "runs" / "old" / "sweep" / "seed=1"
WRITES = {
    "predict": ("--csv a.csv", "--json a.json", "--figure a.png", "--explain a.png"),
    "predict ": ("--output a.csv", "--output a.parquet"),
    "embed": ("--output a.npy", "--output a.parquet"),
    "describe": ("--figure a.png", "--filters a.png"),
    "compare": ("--out a", "--markdown a.md"),
    "evaluate": ("--out a",),
    "export": ("--out a",),
    "check": ("--out a",),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "option"), [(c, option) for c, options in WRITES.items() for option in options]
)
def test_what_a_full_disk_cannot_take_is_told_and_not_half_there(
    call_script, disk, tmp_path, monkeypatch, command, option
):
    """The writers of CSV, JSON, figures, Parquet, NumPy and ONNX meet it each in its own way."""
    place, root = disk("size=4k"), tmp_path / "photos"
    shapes.draw(root, 3, 1, size=32)
    given = {
        "compare": [RUN],
        "evaluate": [RUN, "--data", root / "test"],
        "export": [RUN, "--data", root / "test"],
        "check": ["data=folder", f"data.root={root}", "arch=small_cnn"],
        "describe": ["small_cnn"] if "filters" in option else ["small_cnn", "--finetune", "full"],
    }.get(command.strip(), [RUN, root / "test"])
    monkeypatch.setattr(files, "check_outputs", lambda *_: None)  # there was room when it was asked
    (place / "fill").write_bytes(bytes(4096))
    monkeypatch.chdir(tmp_path)
    name, file = option.split(" ")
    done = call_script(command.strip(), *given, name, place / file)
    assert done.code == 2, done
    assert "o space left on device" in done.err
    assert "Traceback" not in done.err + done.out
    assert {path.name for path in place.rglob("*") if not path.is_dir()} == {"fill"}


# --- left-overs -----------------------------------------------------------------------------------


KILLED = """
import os, sys
from pathlib import Path
from thaw.files import beside
with beside(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print(flush=True)
    sys.stdin.read() if sys.argv[2:] else os._exit(9)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    path = tmp_path / "a [1].csv"
    command = [sys.executable, "-c", KILLED, str(path)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    assert len(left_overs(tmp_path)) == 1
    with subprocess.Popen(
        [*command, "waits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout is not None
        living.stdout.readline()
        assert len(left_overs(tmp_path)) == 1, "the living one removed the dead one's"
        files.write(path, "mine")
        remove_left_overs(tmp_path)
        assert len(left_overs(tmp_path)) == 1
        living.communicate(timeout=20)
    assert path.read_text() == "half", "the last one wins, whole"
    assert left_overs(tmp_path) == []


def test_an_error_while_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "old")
    with suppress(RuntimeError), beside(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert left_overs(tmp_path) == []


def test_space_is_claimed_before_a_native_writer_begins(tmp_path):
    with largest_file(10_000), (tmp_path / "a").open("wb") as file:
        reserve(file, 5_000)
        with pytest.raises(OSError, match="File too large"):
            reserve(file, 50_000)


# --- sentences ------------------------------------------------------------------------------------


def caught(make: Callable[[], object]) -> str | None:
    with pytest.raises(Exception) as error:  # noqa: PT011
        make()
    return cli.user_sentence(error.value)


def too_deep(path: Path) -> None:
    path.touch()
    (path / "a").write_text("")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "memory of torch": (lambda _: torch.empty(10**15), "a smaller data.batch_size"),
    "memory of numpy": (lambda _: np.ones(10**15), "a smaller data.batch_size"),
    "a file for a folder": (lambda path: too_deep(path / "a"), "not a directory"),
    "no such file": (lambda path: (path / "a").read_text(), "no such file"),
    "a folder for a file": (lambda path: path.read_text(), "is a directory"),
    "a long name": (lambda path: (path / ("a" * 300)).touch(), "shorter name"),
    "a full device": (lambda _: Path("/dev/full").write_text("a"), "No space left on device"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_system_refuses_is_a_sentence(fault, tmp_path):
    make, said = FAULTS[fault]
    sentence = caught(lambda: make(tmp_path))
    assert sentence is not None
    assert said in sentence
    assert sentence.endswith(".")


def test_native_writers_are_understood(tmp_path):
    from safetensors.torch import save_file

    tensors = {"a": torch.zeros(100_000)}
    with largest_file(10_000):
        assert "ile too large" in str(caught(lambda: save_file(tensors, tmp_path / "a")))
        with (tmp_path / "b").open("wb") as file:
            assert "ile too large" in str(caught(lambda: torch.save(tensors, file)))


def test_a_loader_that_was_killed_is_understood():
    text = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
    text += " dataloader's workers are out of shared memory."
    assert "/dev/shm is too small" in str(failures.sentence(RuntimeError(text)))
    assert "data.workers=0" in str(failures.sentence(RuntimeError(text)))


def test_a_defect_is_no_fault_of_the_machine():
    def defect() -> None:
        try:
            Path("/nowhere").read_text()
        except OSError:
            raise KeyError("a")  # noqa: B904

    assert caught(defect) is None
    assert cli.user_sentence(AttributeError("a")) is None
    assert cli.user_sentence(OSError("a text alone")) is None


# --- threads and ports ----------------------------------------------------------------------------


def test_a_command_can_be_called_from_any_thread():
    codes: list[object] = []

    def call() -> None:
        with pytest.raises(SystemExit) as stop:
            cli.command(lambda: None)
        codes.append(stop.value.code)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("port", [-1, 70_000, "taken"])
def test_a_port_that_cannot_be_had_is_refused_before_the_work(call_script, tmp_path, port):
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1] if port == "taken" else port
        (tmp_path / "a.onnx").touch()
        done = call_script("serve", tmp_path / "a.onnx", "--port", number)
    assert done.code == 2
    assert f"{number}" in done.err
    assert "--port 0" in done.err or "from 0 to 65535" in done.err


def test_the_number_of_an_error_is_what_is_understood():
    assert failures.sentence(OSError(errno.EROFS, os.strerror(errno.EROFS), "/a")) == (
        "/a: read-only file system; choose a place that can be written."
    )
