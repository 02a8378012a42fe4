"""Downloads against a server on this machine that misbehaves in the ways that servers do."""

import errno
import hashlib
import io
import logging
import os
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import rich
from rich.console import Console

from thaw import fetch, screen
from thaw.errors import UserError

BODY = bytes(range(256)) * 100
SHA = hashlib.sha256(BODY).hexdigest()
SOURCES = str(Path(fetch.__file__).parents[1])

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: "Server"  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send `body`; underscores in the names of `headers` stand for hyphens."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Gives `answers` in turn, the last one for ever, and notes the Range of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [plain(BODY)]
        self.ranges: list[str | None] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file"


def plain(body: bytes) -> Answer:
    return lambda handler: handler.reply(200, body)


def status(code: int) -> Answer:
    return lambda handler: handler.reply(code)


def cut(etag: str | None = None) -> Answer:
    """Promise the whole body, send half of it, and hang up."""
    headers = {"Content_Length": str(len(BODY))} | ({"ETag": etag} if etag else {})
    return lambda handler: handler.reply(200, BODY[: len(BODY) // 2], **headers)


def ranged(handler: Handler) -> None:
    """Serve what the Range header asks for."""
    start = int((handler.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
    size = len(BODY)
    if start == 0:
        handler.reply(200, BODY)
    elif start >= size:
        handler.reply(416, Content_Range=f"bytes */{size}")
    else:
        handler.reply(206, BODY[start:], Content_Range=f"bytes {start}-{size - 1}/{size}")


def hang(handler: Handler) -> None:
    handler.server.closing.wait(10)


def half_then_hang(handler: Handler) -> None:
    cut()(handler)
    hang(handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "BACKOFF", 0.0)
    monkeypatch.setattr(fetch, "CHUNK", len(BODY) // 20)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "net.pth"


def part_of(path: Path, content: bytes) -> Path:
    """Leave what a killed run would have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    return part


def visible(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")}


def refused(server: Server, path: Path, sha256: str | None = None) -> str:
    """Download in vain; return the message, which names the address and the place."""
    with pytest.raises(UserError) as caught:
        fetch.download(server.url, path, sha256)
    message = str(caught.value)
    assert server.url in message
    assert str(path) in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert not path.exists()
    return message


@pytest.mark.parametrize("sha256", [None, SHA, SHA.upper(), SHA[:8]])
def test_downloads(server: Server, path: Path, sha256: str | None) -> None:
    assert fetch.download(server.url, path, sha256) == path
    assert path.read_bytes() == BODY
    assert visible(path.parent) == {"net.pth"}


def test_existing_file_needs_no_server(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"mine")
    fetch.download("http://nowhere.invalid/file", path, SHA)
    assert path.read_bytes() == b"mine"


def test_shows_progress_on_a_terminal(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    fetch.download(server.url, path)
    assert "net.pth" in shown.getvalue()


def test_is_not_silent_in_a_pipe(
    server: Server, path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "log", logging.Logger("of no run", logging.WARNING))
    fetch.download(server.url, path)
    assert "downloading net.pth …" in capsys.readouterr().err


@pytest.mark.parametrize("code", [500, 503, 429])
def test_tries_again_when_the_server_is_busy(server: Server, path: Path, code: int) -> None:
    server.answers = [status(code), status(code), plain(BODY)]
    assert fetch.download(server.url, path).read_bytes() == BODY
    assert len(server.ranges) == 3


def test_gives_up_on_a_busy_server(server: Server, path: Path) -> None:
    server.answers = [status(503)]
    assert "503 Service Unavailable" in refused(server, path)
    assert len(server.ranges) == fetch.ATTEMPTS


def test_does_not_insist_on_a_missing_file(server: Server, path: Path) -> None:
    server.answers = [status(404)]
    assert "404 Not Found" in refused(server, path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    ("etag", "sha256", "resumes"),
    [(None, SHA, True), ('"v1"', None, True), ('W/"v1"', None, False), (None, None, False)],
)
def test_resumes_what_can_be_verified(
    server: Server, path: Path, etag: str | None, sha256: str | None, resumes: bool
) -> None:
    server.answers = [cut(etag), ranged]
    assert fetch.download(server.url, path, sha256).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={len(BODY) // 2}-" if resumes else None]


def test_changed_file_is_taken_from_the_start(server: Server, path: Path) -> None:
    server.answers = [cut('"v1"'), plain(b"v2")]  # what If-Range makes of a changed file
    assert fetch.download(server.url, path).read_bytes() == b"v2"


@pytest.mark.parametrize("answer", [ranged, plain(BODY)], ids=["ranges", "ignores ranges"])
@pytest.mark.parametrize("held", [100, len(BODY), len(BODY) + 1])
def test_continues_an_earlier_run(server: Server, path: Path, answer: Answer, held: int) -> None:
    part_of(path, (BODY + b"?")[:held])
    server.answers = [answer]
    assert fetch.download(server.url, path, SHA).read_bytes() == BODY
    assert server.ranges[0] == f"bytes={held}-"
    assert visible(path.parent) == {"net.pth"}


def test_does_not_trust_an_earlier_run_without_checksum(server: Server, path: Path) -> None:
    part_of(path, b"of another version")
    server.answers = [ranged]
    assert fetch.download(server.url, path).read_bytes() == BODY
    assert server.ranges == [None]


def test_wrong_range_is_not_appended(server: Server, path: Path) -> None:
    part_of(path, BODY[:100])
    server.answers = [lambda it: it.reply(206, BODY, Content_Range="bytes 0-9/10"), plain(BODY)]
    assert fetch.download(server.url, path, SHA).read_bytes() == BODY
    assert server.ranges == ["bytes=100-", None]


def test_wrong_checksum(server: Server, path: Path) -> None:
    message = refused(server, path, "0123abcd")
    assert f"checksum is {SHA} instead of 0123abcd" in message
    assert visible(path.parent) == set()
    assert len(server.ranges) == 1


def test_short_body_is_not_accepted(server: Server, path: Path) -> None:
    server.answers = [cut()]
    assert "did not send all of it" in refused(server, path)
    assert len(server.ranges) == fetch.ATTEMPTS


@pytest.mark.parametrize("answer", [hang, half_then_hang])
def test_hanging_server(
    server: Server, path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", (5.0, 0.3))
    monkeypatch.setattr(fetch, "ATTEMPTS", 2)
    server.answers = [answer]
    assert "timed out" in refused(server, path)
    assert len(server.ranges) == 2


def test_no_server(server: Server, path: Path) -> None:
    server.server_close()
    assert "is there a network?" in refused(server, path)


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/file", "http://[::1/file"])
def test_malformed_address(path: Path, url: str) -> None:
    with pytest.raises(UserError, match="not an http"):
        fetch.download(url, path)


def test_full_disk(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "no space left on device" in refused(server, path)
    assert len(server.ranges) == 1


def python(code: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": SOURCES}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


DOWNLOAD = """
import sys
from pathlib import Path
from thaw import fetch, screen
fetch.CHUNK = 1000
fetch.download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""


def test_two_processes_share_one_download(server: Server, path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.3)
        handler.reply(200, BODY)

    server.answers = [slow]
    both = [python(DOWNLOAD, server.url, path, SHA) for _ in range(2)]
    assert [process.wait(30) for process in both] == [0, 0]
    assert path.read_bytes() == BODY
    assert server.ranges == [None]


def test_resumes_after_a_kill(server: Server, path: Path) -> None:
    server.answers = [half_then_hang, ranged]
    part = path.with_name("net.pth.part")
    with python(DOWNLOAD, server.url, path, SHA) as process:
        deadline = time.monotonic() + 8
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    held = part.stat().st_size
    assert fetch.download(server.url, path, SHA).read_bytes() == BODY
    assert server.ranges == [None, f"bytes={held}-"]


def test_importing_is_cheap() -> None:
    code = "import sys, thaw.fetch; sys.exit(bool({'requests', 'rich', 'torch'} & {*sys.modules}))"
    assert python(code).wait(30) == 0


PHOTOS = {
    "cats/train/a.jpg": b"a",
    "cats/val/b.jpg": b"b",
    "cats/.DS_Store": b"x",
    "__MACOSX/cats/train/._a.jpg": b"x",
}


def zipped(members: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (None, {"cats/train/a.jpg", "cats/val/b.jpg"}),
        ("cats", {"train/a.jpg", "val/b.jpg"}),
        ("cats/train", {"a.jpg"}),
    ],
)
@pytest.mark.parametrize("before", ["absent", "empty", "killed run"])
def test_fetches_a_folder(
    server: Server, tmp_path: Path, inner: str | None, expected: set[str], before: str
) -> None:
    root = tmp_path / "photos"
    if before == "empty":
        root.mkdir()
    if before == "killed run":
        (tmp_path / ".photos.unzipping" / "cats" / "train").mkdir(parents=True)
        (tmp_path / ".photos.unzipping" / "cats" / "train" / "half.jpg").touch()
        (tmp_path / "photos.zip.part").write_bytes(b"half")
    server.answers = [plain(zipped(PHOTOS))]
    fetch.fetch_folder(server.url, root, inner=inner)
    assert files(root) == expected
    assert visible(tmp_path) == {"photos"}


def test_existing_folder_makes_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photos" / "mine").mkdir(parents=True)
    fetch.fetch_folder(server.url, tmp_path / "photos")
    assert server.ranges == []
    assert visible(tmp_path) == {"photos"}


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (zipped(PHOTOS), "the archive has nothing in dogs"),
        (b"<html>please log in</html>", "damaged or not a zip archive"),
        (zipped(PHOTOS)[:-40], "damaged or not a zip archive"),
        (zipped({"dogs/../../evil": b""}), "outside the folder"),
    ],
)
def test_bad_archive_leaves_nothing(
    server: Server, tmp_path: Path, archive: bytes, reason: str
) -> None:
    root = tmp_path / "photos"
    server.answers = [plain(archive)]
    with pytest.raises(UserError, match=reason) as caught:
        fetch.fetch_folder(server.url, root, inner="dogs")
    assert server.url in str(caught.value)
    assert str(root) in str(caught.value)
    assert visible(tmp_path) == set()


def test_two_threads_share_one_folder(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.1)
        handler.reply(200, zipped(PHOTOS))

    server.answers = [slow]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch.fetch_folder, server.url, tmp_path / "photos") for _ in range(2)]
    for future in both:
        future.result()
    assert files(tmp_path / "photos") == {"cats/train/a.jpg", "cats/val/b.jpg"}
    assert visible(tmp_path) == {"photos"}
    assert len(server.ranges) == 1


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil"])
def test_unzip_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.zip").write_bytes(zipped({"good.jpg": b"", name: b"evil"}))
    with pytest.raises(UserError, match="lies outside the folder"):
        fetch.unzip(tmp_path / "bad.zip", tmp_path / "out")
    assert visible(tmp_path) == {"bad.zip"}


def test_unzip_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(zipped({"link": b"/etc"}, stat.S_IFLNK | 0o777))
    with pytest.raises(UserError, match="'link' is a symbolic link"):
        fetch.unzip(tmp_path / "bad.zip", tmp_path / "out")
    assert visible(tmp_path) == {"bad.zip"}


@pytest.mark.parametrize("limit", ["MAX_RATIO", "MAX_UNZIPPED"])
def test_unzip_refuses_bombs(tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_RATIO", 10**9)
    monkeypatch.setattr(fetch, limit, 100)
    (tmp_path / "bomb.zip").write_bytes(zipped({"zeros": bytes(100_000)}))
    with pytest.raises(UserError, match="would expand to 100,000 bytes"):
        fetch.unzip(tmp_path / "bomb.zip", tmp_path / "out")
    assert visible(tmp_path) == {"bomb.zip"}


def test_unzip_does_not_exceed_a_false_size(tmp_path: Path) -> None:
    content = zipped({"zeros": bytes(100_000)})
    size = (100_000).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="damaged"):
        fetch.unzip(tmp_path / "liar.zip", tmp_path / "out")
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) <= 10
