"""A model behind HTTP: a page on which photos are dropped, and the same answers as JSON.

GET / is the page, GET /model says what the model is. POST /predict takes photos as files of a form
(`curl -F photo=@a.jpg`). It answers `{"photos": [...]}`, each with name, label, confidence and
probabilities, with `?explain=1` also `explanation`, a PNG as a data URL. A photo that can't be used
has `error` in place of these; if none can, the status is 422. A request that is too long gets 413
and `{"error": ...}`.
"""

import base64
import io
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.types import Message

from thaw.data.photos import BrokenPhoto, load_photo
from thaw.errors import UserError
from thaw.model.predict import load_model
from thaw.model.prediction import decide

MEGABYTES, MEGAPIXELS, PHOTOS = 50, 50, 32  # of one request, of one photo, in one request


def app(run: Path, name: str | None = None) -> Starlette:
    """The web application for a run, a bundle or an ONNX file; any ASGI server runs it.

    Args:
        name: what the page calls the model; the run's name by default.

    Raises:
        UserError: there is no model.
    """
    model, busy = load_model(run), Lock()  # Grad-CAM hangs hooks into the net: one at a time
    metrics = model.info.get("metrics", {})
    facts = {"name": name or run.resolve().name, "classes": model.classes}
    facts |= {"threshold": model.threshold, "accuracy": metrics.get("test/acc")}
    facts |= {"explains": run.suffix != ".onnx", "photos": PHOTOS, "megabytes": MEGABYTES}

    def answer(upload: UploadFile, explained: bool) -> dict[str, Any]:
        named = {"name": upload.filename or "photo"}
        try:
            image = _decode(named["name"], upload.file)
        except UserError as error:
            return named | {"error": str(error)}
        with busy:
            row = model.probabilities([image])[0].tolist()
            found = vars(
                decide(named["name"], model.classes, row, model.threshold, model.prior)
            ).copy()
            del found["path"]
            if explained:
                found["explanation"] = _explanation(model, image)
        return named | found

    async def predict(request: Request) -> JSONResponse:
        explained = request.query_params.get("explain") == "1" and facts["explains"]
        async with _limited(request).form(max_files=PHOTOS, max_fields=0) as form:
            photos = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not photos:
                raise HTTPException(422, "Expected photos as files of a form, got none.")
            answers = [await run_in_threadpool(answer, photo, explained) for photo in photos]
        errors = [found["error"] for found in answers if "error" in found]
        if len(errors) == len(answers):
            return JSONResponse({"error": errors[0], "photos": answers}, 422)
        return JSONResponse({"photos": answers})

    page = (files("thaw.model") / "page.html").read_text(encoding="utf-8")
    routes = [
        Route("/", lambda _: HTMLResponse(page)),
        Route("/model", lambda _: JSONResponse(facts)),
        Route("/predict", predict, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})


def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _limited(request: Request) -> Request:
    """The same request, which breaks off where its body gets too long, whatever its header says."""
    got = 0

    async def receive() -> Message:
        nonlocal got
        message = await request.receive()
        got += len(message.get("body", b""))
        if got > MEGABYTES * 1_000_000:
            raise HTTPException(
                413, f"Expected at most {MEGABYTES} MB of photos at once, got more."
            )
        return message

    return Request(request.scope, receive)


def _decode(name: str, file: BinaryIO) -> Image.Image:
    pixels = 0
    with suppress(Exception), Image.open(file) as image:  # what is wrong with it comes out below
        pixels = image.width * image.height
    if pixels > MEGAPIXELS * 1_000_000:
        raise UserError(
            f"Expected a photo of at most {MEGAPIXELS} megapixels, but {name} has"
            f" {pixels / 1e6:.0f}."
        )
    file.seek(0)
    try:
        return load_photo(file)
    except BrokenPhoto as error:
        raise UserError(f"{name} can't be decoded ({error.reason}).") from error


def _explanation(model: Any, image: Image.Image) -> str:
    from thaw.model.explain import overlay

    png = io.BytesIO()
    overlay(model, image).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
