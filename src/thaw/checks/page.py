"""`check.html`: one file that shows the photos in question side by side, worst first."""

from collections.abc import Sequence
from dataclasses import dataclass

from thaw.checks.findings import Finding, Result
from thaw.data.folder import PhotoFolder
from thaw.page.pictures import Thumbnails
from thaw.page.render import render

SIDE = 160  # pixels of a thumbnail
AN_ISSUE = 40  # findings of an issue that are shown
MOST = 400  # thumbnails in all, of about 5 kB
TITLES = {
    "unreadable": "Can't be read",
    "leak": "The same photo in two splits",
    "two_labels": "The same photo under two labels",
    "label": "Labels that look wrong",
    "duplicate": "The same file twice",
    "near_duplicate": "Copies in one split, and photos that are very similar",
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
    thumbnails = Thumbnails(data.root, data.white, MOST, SIDE)
    sections = [
        (
            TITLES[result.issue],
            result,
            [_shown(finding, thumbnails) for finding in result.findings[:AN_ISSUE]],
        )
        for result in results
        if result.wrong
    ]
    quiet = [result.sentence for result in results if not result.wrong]
    return render("checks/page.html", sections=sections, about=about, quiet=quiet)


def _shown(finding: Finding, thumbnails: Thumbnails) -> Shown:
    photos = [(path, thumbnails.of(path)) for path in (finding.path, finding.other) if path]
    return Shown(finding, [(path, uri) for path, uri in photos if uri])
