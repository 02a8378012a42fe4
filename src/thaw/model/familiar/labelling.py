"""A page on which photos get their labels: each is copied into the folder of its class."""

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import ImageOps
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from thaw.data.find import is_clutter
from thaw.data.photos import load_photo
from thaw.data.pixels.deep import White
from thaw.errors import UserError
from thaw.escape import printable
from thaw.files import beside
from thaw.model.doorman import Doorman
from thaw.model.prediction import Prediction

SIDE = 1000  # pixels of a photo's longer side, on the page
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self';"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


def is_folder_name(name: str) -> bool:
    """Whether a class of this name can have a folder, on any system, that photos are found in."""
    legal = 0 < len(name.encode("utf-8", "replace")) <= 200 and printable(name) == name
    legal = legal and name.strip(" .") == name and not set(name) & {*'/\\:*?"<>|'}
    return legal and not is_clutter(name)


class Desk:
    """Photos that wait for a label, and the copies that were made of those that have one.

    Args:
        folders: of each class.
        above: where the folder of a new class goes.
    """

    def __init__(self, photos: Sequence[Path], folders: Mapping[str, Path], above: Path) -> None:
        self.photos, self.folders, self.above = photos, dict(folders), above
        self.done: list[tuple[int, str, Path]] = []  # photo, class, copy; the last is undone first
        self.lock = Lock()

    def label(self, photo: int, name: str) -> None:
        """Copy a photo into the folder of its class; a file that is there is never replaced.

        Raises:
            UserError: the class can't have a folder, or the photo can't be copied.
        """
        with self.lock:
            if any(number == photo for number, _, _ in self.done):
                raise UserError(f"{self.photos[photo].name} has a label; undo that first.")
            if name not in self.folders:
                if not is_folder_name(name):
                    raise UserError("Expected a name that a folder can have, without / \\ : or *.")
                self.folders[name] = self.above / name
            try:
                copy = _copy(self.photos[photo], self.folders[name])
            except OSError as error:
                raise UserError(
                    f"{self.photos[photo].name} can't be copied to {self.folders[name]}:"
                    f" {error.strerror}."
                ) from error
            self.done.append((photo, name, copy))

    def undo(self) -> None:
        """Remove the last copy."""
        with self.lock:
            if self.done:
                self.done.pop()[2].unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        """The classes, and of each photo that has one, its class."""
        return {"classes": [*self.folders], "done": [[photo, name] for photo, name, _ in self.done]}


def _copy(photo: Path, folder: Path) -> Path:
    """Copy a photo into a folder, under a name that is free there: `a.jpg`, `a_2.jpg`, …"""
    number, place = 1, folder / photo.name
    while os.path.lexists(place):
        number += 1
        place = folder / f"{photo.stem}_{number}{photo.suffix}"
    with beside(place) as partial:
        shutil.copy2(photo, partial)
    return place


def app(
    predictions: Sequence[Prediction],
    folders: Mapping[str, Path],
    above: Path,
    white: White | None = None,
) -> Starlette:
    """The web application of the page, for this machine alone.

    Args:
        predictions: what the model says of the photos, in the order in which they are shown.
        folders: of each class; `above` is where the folder of a new class goes.
        white: of photos of more than 8 bits.
    """
    desk = Desk([Path(prediction.path) for prediction in predictions], folders, above)
    photos = [
        {"name": Path(p.path).name, "label": p.label, "top": p.top, "confidence": p.confidence}
        for p in predictions
    ]

    def picture(photo: int) -> bytes:
        jpeg = io.BytesIO()
        image = ImageOps.contain(load_photo(desk.photos[photo], white), (SIDE, SIDE))
        image.save(jpeg, "JPEG", quality=88)
        return jpeg.getvalue()

    async def show(request: Request) -> Response:
        photo = request.path_params["photo"]
        if photo >= len(photos):
            raise HTTPException(404, "There is no such photo.")
        jpeg = await run_in_threadpool(picture, photo)
        return Response(jpeg, media_type="image/jpeg")

    async def label(request: Request) -> JSONResponse:
        given = await _body(request)
        photo, name = given.get("photo"), given.get("class")
        if type(photo) is not int or not 0 <= photo < len(photos) or not isinstance(name, str):
            raise HTTPException(422, "Expected a photo's number and the name of a class.")
        await run_in_threadpool(desk.label, photo, name)
        return JSONResponse(desk.state())

    async def undo(_: Request) -> JSONResponse:
        await run_in_threadpool(desk.undo)
        return JSONResponse(desk.state())

    page = (files("thaw.model.familiar") / "labelling.html").read_text(encoding="utf-8")
    routes = [
        Route("/", lambda _: HTMLResponse(page, headers={"Content-Security-Policy": POLICY})),
        Route("/photos", lambda _: JSONResponse({"photos": photos} | desk.state())),
        Route("/photo/{photo:int}", show),
        Route("/label", label, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Doorman, host="127.0.0.1")],
        exception_handlers={HTTPException: _refuse, UserError: _refuse},
    )


async def _body(request: Request) -> dict[str, Any]:
    """The values that a request brings."""
    kind = request.headers.get("content-type", "")
    if int(request.headers.get("content-length") or 10**6) > 10_000 or "json" not in kind:
        raise HTTPException(422, "Expected a short request of JSON.")
    try:
        given = await request.json()
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise HTTPException(422, "Expected values by name.")
    return given


def _refuse(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 422)
