"""The page and the JSON endpoint, over HTTP and in a headless browser."""

import io
import shutil
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

from thaw.model import serve

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


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "Drop photos here" in page
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
    assert "broken.jpg can't be decoded (not an image)." in done.stdout
