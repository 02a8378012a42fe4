"""`check.html`: one file that shows the photos in question side by side, worst first."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment
from PIL import Image

from thaw.checks.findings import Finding, Result
from thaw.data.folder import PhotoFolder
from thaw.data.photos import BrokenPhoto, load_photo

SIDE = 160  # pixels of a thumbnail
AN_ISSUE = 40  # findings of an issue that are shown
MOST = 400  # thumbnails in all, of about 5 kB
QUALITY = 70
TITLES = {
    "unreadable": "Can't be read",
    "leak": "The same photo in two splits",
    "two_labels": "The same photo under two labels",
    "label": "Labels that look wrong",
    "duplicate": "The same file twice",
    "near_duplicate": "Copies, and two photos of one scene",
    "shortcut": "Told without looking",
    "group": "Photos that come together",
    "class": "Classes",
    "small_class": "Few photos of a class",
    "crop": "What the weights don't see",
    "format": "Files",
}


@dataclass(frozen=True)
class Shown:
    """A finding with the photos that belong to it: (caption, data URI or "")."""

    finding: Finding
    photos: list[tuple[str, str]]


def html(results: Sequence[Result], data: PhotoFolder, about: str) -> str:
    """The page: nothing in it is loaded from elsewhere, and all text is escaped."""
    thumbnails = _Thumbnails(data)
    sections = [
        (
            TITLES[result.issue],
            result,
            [_shown(finding, thumbnails) for finding in result.findings[:AN_ISSUE]],
        )
        for result in results
        if result.wrong
    ]
    text = (files("thaw.checks") / "page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    quiet = [result.sentence for result in results if not result.wrong]
    return template.render(sections=sections, about=about, quiet=quiet, issues=TITLES)


def _shown(finding: Finding, thumbnails: "_Thumbnails") -> Shown:
    photos = [(path, thumbnails.of(path)) for path in (finding.path, finding.other) if path]
    return Shown(finding, [(path, uri) for path, uri in photos if uri])


class _Thumbnails:
    """Small JPEGs as data URIs, at most `MOST` of them."""

    def __init__(self, data: PhotoFolder) -> None:
        self.data = data
        self.made: dict[str, str] = {}

    def of(self, path: str) -> str:
        """ "" where the path isn't a photo, or there are enough."""
        if path not in self.made:
            file = self.data.root / path
            if len(self.made) >= MOST or not file.is_file():
                return ""
            try:
                self.made[path] = _data_uri(load_photo(file, self.data.white, least=SIDE))
            except BrokenPhoto:
                return ""
        return self.made[path]


def _data_uri(photo: Image.Image) -> str:
    photo.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
