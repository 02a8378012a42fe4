"""A model behind HTTP: a page on which photos are dropped, and the same answers as JSON.

GET / is the page, GET /model says what the model is. POST /predict takes photos as files of a form
(`curl -F photo=@a.jpg`). It answers `{"photos": [...]}`, each with name, label, confidence and
probabilities, with `?explain=1` also `explanation`, a PNG as a data URL. A photo that can't be used
has `error` in place of these; if none can, the status is 422. A request that is too long gets 413,
one that is too slow 408, one from another site 403, and each `{"error": ...}`.
"""

import asyncio
import base64
import io
import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Message

from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.pixels.opening import opened
from thaw.errors import UserError
from thaw.model.doorman import Doorman
from thaw.model.familiar.similar import thumbnail
from thaw.model.predict import load_model
from thaw.model.prediction import UNFAMILIAR, UNSURE, aside

log = logging.getLogger(__name__)
MEGABYTES, MEGAPIXELS, PHOTOS = 50, 50, 32  # of one request, of one photo, in one request
MEGAPIXELS_AT_ONCE = 200  # of one request's photos
MOST_SIMILAR = 9  # train photos told beside each photo
SECONDS = 60  # until a request has come, and then until its last photo is begun
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " img-src data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class Answer(Response):
    """Plain values as JSON; of a name that is no text in UTF-8, the bytes are escapes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """As Starlette's own, whose encoding would fail."""
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def app(run: Path, name: str | None = None, host: str | None = None) -> Starlette:
    """The web application for a run, a bundle or an ONNX file; any ASGI server runs it.

    Args:
        name: what the page calls the model; its net's name by default.
        host: the address that the server listens on, which decides who may come by which name.

    Raises:
        UserError: there is no model.
    """
    model, busy = load_model(run), Lock()  # Grad-CAM hangs hooks into the net: one at a time
    metrics = model.info.get("metrics", {})
    called = model.info.get("arch", {}).get("name")  # an own net may have none
    facts = {"name": name or called or run.resolve().name, "classes": model.classes}
    ends = [metrics.get(f"test/acc_{end}") for end in ("low", "high")]
    facts |= {"threshold": model.threshold, "accuracy": metrics.get("test/acc")}
    facts |= {"interval": None if None in ends else ends, "tested": metrics.get("test/images")}
    facts |= {"explains": run.suffix != ".onnx", "photos": PHOTOS, "megabytes": MEGABYTES}
    familiar = getattr(model, "familiar", None)
    facts |= {"level": model.level, "similar": familiar is not None}
    facts |= {"sample": familiar.sample if familiar else ""}
    facts |= {word: aside(word, model.classes) for word in (UNFAMILIAR, UNSURE)}

    def answer(
        upload: UploadFile, explained: bool, similar: int, budget: _Budget
    ) -> dict[str, Any]:
        """The answer to one photo, or what is wrong with it: the others keep theirs."""
        photo = upload.filename or "photo"
        # One photo is decoded and labelled at a time, so that many requests need no more memory.
        if not busy.acquire(timeout=max(0.0, budget.ends - time.monotonic())):
            return {"name": photo, "error": f"There was no time left for {photo}; send it again."}
        try:
            image = _decode(photo, upload.file, budget, model.white)
            said = model.label(image, photo, similar)
            found = asdict(said)
            del found["path"]
            for like, row in zip(said.similar, found["similar"], strict=True):
                row["photo"] = thumbnail(model.familiar, like, model.white)
            if explained:
                with suppress(UserError):  # a net without places has no explanation, but an answer
                    found["explanation"] = _explanation(model, image)
        except UserError as error:
            return {"name": photo, "error": str(error)}
        except Exception:
            log.exception("%r can't be labelled", photo)
            return {"name": photo, "error": f"{photo} can't be labelled."}
        finally:
            busy.release()
        return {"name": photo} | found

    async def predict(request: Request) -> Answer:
        explained = request.query_params.get("explain") == "1" and facts["explains"]
        asked = request.query_params.get("similar", "0")
        if asked not in map(str, range(MOST_SIMILAR + 1)):
            raise HTTPException(422, f"Expected similar to be from 0 to {MOST_SIMILAR}.")
        similar = int(asked) if facts["similar"] else 0
        async with _limited(request).form(max_files=PHOTOS, max_fields=PHOTOS) as form:
            photos = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not photos:
                raise HTTPException(422, "Expected photos as files of a form, got none.")
            budget = _Budget()
            how = (explained, similar, budget)
            answers = [await run_in_threadpool(answer, photo, *how) for photo in photos]
        errors = [found["error"] for found in answers if "error" in found]
        if len(errors) == len(answers):
            return Answer({"error": errors[0], "photos": answers}, 422)
        return Answer({"photos": answers})

    page = (files("thaw.model") / "page.html").read_text(encoding="utf-8")
    routes = [
        Route("/", lambda _: HTMLResponse(page, headers={"Content-Security-Policy": POLICY})),
        Route("/model", lambda _: Answer(facts)),
        Route("/predict", predict, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Doorman, host=host)],
        exception_handlers={HTTPException: _refuse, ClientDisconnect: _gone},
    )


class _Budget:
    """What one request may still cost."""

    def __init__(self) -> None:
        self.ends, self.megapixels = time.monotonic() + SECONDS, float(MEGAPIXELS_AT_ONCE)


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _refuse(_: Request, error: Exception) -> Answer:
    assert isinstance(error, HTTPException)
    return Answer({"error": error.detail}, error.status_code)


def _limited(request: Request) -> Request:
    """The same request, which breaks off where its body is too long, or too long in coming."""
    got, ends = 0, time.monotonic() + SECONDS

    async def receive() -> Message:
        nonlocal got
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, ends - time.monotonic()))
        except TimeoutError:
            raise HTTPException(
                408, f"Expected all photos within {SECONDS} seconds, got a part of them."
            ) from None
        got += len(message.get("body", b""))
        if got > MEGABYTES * 1_000_000:
            raise HTTPException(
                413, f"Expected at most {MEGABYTES} MB of photos at once, got more."
            )
        return message

    return Request(request.scope, receive)


def _decode(name: str, file: BinaryIO, budget: _Budget, white: dict[str, float]) -> Image.Image:
    megapixels = 0.0
    with suppress(Exception), opened(file) as image:  # what is wrong with it comes out below
        megapixels = image.width * image.height / 1e6
    if megapixels > MEGAPIXELS:
        raise UserError(
            f"Expected a photo of at most {MEGAPIXELS} megapixels, but {name} has {megapixels:.0f}."
        )
    if megapixels > budget.megapixels:
        raise UserError(
            f"Expected photos of at most {MEGAPIXELS_AT_ONCE} megapixels at once; send {name} in"
            " another request."
        )
    budget.megapixels -= megapixels
    try:
        return load_photo(file, white)
    except BrokenPhoto as error:
        raise UserError(f"{name} can't be decoded ({error.reason}).") from error


def _explanation(model: Any, image: Image.Image) -> str:
    from thaw.model.explain import overlay

    png = io.BytesIO()
    overlay(model, image).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
