"""The page and the JSON endpoint, over HTTP and in a headless browser."""

import io
import shutil
import socket
import subprocess
import threading
import time

import pytest
from conftest import REPO
from PIL import Image

import thaw
from thaw.model import bundle

pytest.importorskip("starlette", reason="serving is an extra")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from thaw.model import doorman, serve

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def application(finished):
    return serve.app(finished.run, "Colours")


@pytest.fixture
def client(application):
    with TestClient(application) as client:
        yield client


@pytest.fixture
def red(finished):
    return finished.photos / "test" / "red" / "0.jpg"


def upload(*contents: bytes):
    return [("photo", (f"{i}.jpg", content)) for i, content in enumerate(contents)]


def test_the_answer_is_that_of_the_model(client, finished, red):
    blue = red.parents[1] / "blue" / "0.jpg"
    done = client.post("/predict", files=upload(red.read_bytes(), blue.read_bytes()))
    assert done.status_code == 200
    found = done.json()["photos"]
    assert [photo["name"] for photo in found] == ["0.jpg", "1.jpg"]
    for photo, expected in zip(found, thaw.load(finished.run).predict([red, blue]), strict=True):
        assert photo["label"] == expected.label
        assert photo["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
        assert photo["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
        assert "explanation" not in photo


def test_below_the_threshold_it_is_unsure(finished, red, tmp_path):
    folder = shutil.copytree(finished.run / "model", tmp_path / "model")
    bundle.change(folder, threshold=1.0)
    with TestClient(serve.app(folder)) as client:
        assert client.get("/model").json()["threshold"] == 1
        (found,) = client.post("/predict", files=upload(red.read_bytes())).json()["photos"]
    assert found["label"] == "unsure"


def test_an_explanation_is_a_picture(client, red):
    done = client.post("/predict?explain=1", files=upload(red.read_bytes()))
    (found,) = done.json()["photos"]
    assert found["explanation"].startswith("data:image/png;base64,")


def test_a_broken_photo_has_a_sentence_and_the_others_their_labels(client, red):
    done = client.post("/predict", files=upload(b"no photo", red.read_bytes()))
    assert done.status_code == 200
    broken, whole = done.json()["photos"]
    assert broken == {"name": "0.jpg", "error": "0.jpg can't be decoded (not an image)."}
    assert "label" in whole
    done = client.post("/predict", files=upload(red.read_bytes()[:300]))
    assert done.status_code == 422
    assert done.json()["error"].startswith("0.jpg can't be decoded")


def test_limits(client, red, monkeypatch):
    def refused(status, *contents):
        done = client.post("/predict", files=upload(*contents))
        assert done.status_code == status
        sentence = done.json()["error"]
        assert sentence.endswith(".")
        return sentence

    many = io.BytesIO()
    Image.new("1", (8000, 7000)).save(many, "PNG")  # a few kB
    assert "at most 50 megapixels, but 0.jpg has 56" in refused(422, many.getvalue())
    assert "got none" in refused(422)
    assert "32" in refused(400, *[b"x"] * 33)
    monkeypatch.setattr(serve, "MEGABYTES", 0.001)
    assert "at most 0.001 MB" in refused(413, bytes(2000))


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


HOSTILE = {
    "strip": (png(1, 60_000), None),  # of which only what is seen is enlarged
    "bomb": (png(20_000, 20_000), "megapixels"),
    "icon": (b"\0\0\1\0\1\0" + bytes(16), "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image, but an EPS"),
    "web page": (b"<!DOCTYPE html><html></html>", "not an image, but a web page"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_the_others_nothing(client, red, name):
    content, reason = HOSTILE[name]
    done = client.post("/predict?explain=1", files=upload(content, red.read_bytes()))
    assert done.status_code == 200
    hostile, other = done.json()["photos"]
    assert "label" in other
    if reason is None:
        assert "label" in hostile
    else:
        assert reason in hostile["error"]


def test_a_defect_at_one_photo_costs_the_others_nothing(client, red, monkeypatch):
    load = serve.load_photo

    def once(*given):
        monkeypatch.setattr(serve, "load_photo", load)
        raise RuntimeError("as never seen before")

    monkeypatch.setattr(serve, "load_photo", once)
    found = client.post("/predict", files=upload(*[red.read_bytes()] * 2)).json()["photos"]
    assert found[0]["error"] == "0.jpg can't be labelled."
    assert "label" in found[1]


def test_a_request_has_so_many_pixels_and_so_much_time(client, red, monkeypatch):
    contents = [png(1000, 1000)] * 3
    monkeypatch.setattr(serve, "MEGAPIXELS_AT_ONCE", 2.5)
    found = client.post("/predict", files=upload(*contents)).json()["photos"]
    assert ["error" in photo for photo in found] == [False, False, True]
    assert "at most 2.5 megapixels at once; send 2.jpg" in found[2]["error"]
    monkeypatch.setattr(serve, "SECONDS", 0)
    assert client.post("/predict", files=upload(*contents)).status_code == 408


def test_only_own_names_and_own_pages_are_let_in(finished):
    for host, strangers in (
        ("127.0.0.1", ["evil.example", "192.168.0.7:8000", "intranet", "[::"]),
        ("0.0.0.0", ["evil.example:8000", "127.0.0.1.evil.example"]),
    ):
        with TestClient(serve.app(finished.run, host=host)) as client:
            for name in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
                assert client.get("/model", headers={"Host": name}).status_code == 200, name
            for name in strangers:
                done = client.get("/model", headers={"Host": name})
                assert done.status_code == 403, name
                assert name in done.json()["error"]
            here = {"Host": "localhost:8000"}
            for origin, status in (
                ("http://localhost:8000", 422),  # it is let in, with no photos
                ("http://localhost:8001", 403),
                ("https://evil.example", 403),
                ("null", 403),
            ):
                done = client.post("/predict", headers=here | {"Origin": origin})
                assert done.status_code == status, origin
    with TestClient(serve.app(finished.run, host="0.0.0.0")) as client:
        assert client.get("/", headers={"Host": "192.168.0.7:8000"}).status_code == 200


@pytest.fixture
def port(application, monkeypatch):
    """Of a server that waits half a second."""
    import uvicorn

    monkeypatch.setattr(doorman, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(serve, "SECONDS", 1)
    servers = []

    def start(app, **settings):
        servers.append(uvicorn.Server(uvicorn.Config(app, **settings | {"log_level": "error"})))
        servers[0].run()

    monkeypatch.setattr(uvicorn, "run", start)
    thread = threading.Thread(target=doorman.run, args=(application, "127.0.0.1", 0), daemon=True)
    thread.start()
    while not (servers and servers[0].started):
        time.sleep(0.02)
    yield servers[0].servers[0].sockets[0].getsockname()[1]
    servers[0].should_exit = True
    thread.join()


GET = b"GET /model HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
POST += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(GET, b"", id="half a header"),
        pytest.param(GET + b"\r\n" + GET, b" 200 ", id="half a second header"),
        pytest.param(POST, b" 408 ", id="half a body"),
    ],
)
def test_who_only_keeps_it_waiting_is_cut_off(port, sent, answer):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(sent)
        got = b""
        while part := line.recv(4096):  # until it hangs up, or this test fails with a timeout
            got += part
    assert answer in got
    assert bool(got) == bool(answer)


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "Drop photos here" in page
    page = page.replace("xmlns='http://www.w3.org/2000/svg'", "")  # a name, not an address
    page = page.replace('<link rel="icon" href="data:', "")
    for word in ("http:", "https:", "//", "@import", "<link"):
        assert word not in page.replace("</", "")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_a_photo_dropped_in_a_browser_gets_its_label(application, finished, red, tmp_path):
    import uvicorn

    (expected,) = thaw.load(finished.run).predict([red])
    page = (REPO / "src" / "thaw" / "model" / "page.html").read_text()
    drop = """<script>
      ready.then(async () => {
        const data = new DataTransfer();
        data.items.add(new File([await (await fetch("photo.jpg")).blob()], "mine.jpg"));
        data.items.add(new File(["no photo"], "broken.jpg"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
      });
    </script>"""
    hand = [
        Route("/dropped", lambda _: HTMLResponse(page + drop)),
        Route("/photo.jpg", lambda _: FileResponse(red)),
    ]
    application.router.routes[:0] = hand
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--virtual-time-budget=20000"]
    browser += [f"--user-data-dir={tmp_path}", "--dump-dom", f"http://127.0.0.1:{port}/dropped"]
    try:
        done = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.should_exit = True
        thread.join()
    assert '<h1 id="name">Colours</h1>' in done.stdout
    assert "Tells apart blue, green, red." in done.stdout
    assert f"{expected.label}<span>{expected.confidence:.1%}" in done.stdout
    assert "data:image/png;base64," in done.stdout
    assert done.stdout.count('class="bar"') == 3
    assert "It can't be decoded: not an image." in done.stdout
    assert done.stdout.count("broken.jpg") == 2, "in the script above, and once on the page"
