"""What was tried, what it said, and why the next step was taken: on screen, kept, and read again.

`best.json` says how far a search has come, and `tries/` what each way said of the photos that it
hadn't seen; with both a search goes on where it broke off. `log.md` is for people.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import get_console
from rich.text import Text
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from thaw.best.budget import Budget, told
from thaw.errors import UserError
from thaw.escape import printable
from thaw.files import beside, write, write_json
from thaw.launch.names import job_name
from thaw.runs.read import damage, read_json
from thaw.runs.schema import Wrong, items, number, one_of, record, text
from thaw.screen import wrapped

log = logging.getLogger(__name__)
FILE = "best.json"
_entry = record({"at": number(0, 1e9), "what": text(), "said": text(), "so": text()})
_state = record(
    {
        "state": one_of("running", "done"),
        "words": items(text()),
        "photos": text(),
        "spent": number(0, 1e9),
        "log": items(_entry),
    }
)


class Diary:
    """A search's folder.

    Args:
        folder: a new one, or that of a search that broke off.
        words: the settings of the search; a search goes on only with those it began with.

    Raises:
        UserError: the folder holds a search that is finished, or one with other settings.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder, self.words = folder, list(words)
        self.entries: list[dict[str, Any]] = []
        self.photos, self.spent, self.leader = "", 0.0, ""
        self.budget: Budget | None = None
        if not (folder / FILE).exists():
            return
        before = read_json(folder / FILE, _state)
        if before["state"] == "done":
            raise UserError(
                f"The search in {folder} is finished, and its test photos are opened; a new one"
                " (another --out) finds the features in the cache."
            )
        if before["words"] != self.words:
            raise UserError(
                f"The search in {folder} began with other settings ({' '.join(before['words'])});"
                " go on with those, or choose another --out."
            )
        self.entries, self.photos, self.spent = before["log"], before["photos"], before["spent"]

    def on(self, budget: Budget, photos: str) -> None:
        """Begin: `photos` is a digest of them.

        Raises:
            UserError: they aren't those that the search began with.
        """
        if self.photos not in ("", photos):
            raise UserError(
                f"The photos aren't those that the search in {self.folder} began with; put them"
                " back, or choose another --out."
            )
        self.photos, self.budget = photos, budget
        self.keep()

    def add(self, what: str, said: str, so: str = "") -> None:
        """Tell a step: what was done, what it said, and what follows from it."""
        assert self.budget is not None
        if any((e["what"], e["said"], e["so"]) == (what, said, so) for e in self.entries):
            return  # of a search that goes on
        entry = {"at": round(self.budget.spent, 1), "what": what, "said": said, "so": so}
        self.entries.append(entry)
        self.keep()
        say(f"{told(entry['at']):>6}  {what}: {said}")
        if so:
            say(f"        → {so}", "dim")

    def keep(self, state: str = "running") -> None:
        """Write down how far the search has come."""
        assert self.budget is not None
        facts = {"state": state, "words": self.words, "photos": self.photos}
        facts |= {"spent": round(self.budget.spent, 1), "log": self.entries}
        write_json(self.folder / FILE, facts)
        lines = ["| time | what | what it said | so |", "|---|---|---|---|"]
        for entry in self.entries:
            cells = [told(entry["at"]), entry["what"], entry["said"], entry["so"]]
            lines.append(f"| {' | '.join(c.replace('|', '/') for c in cells)} |")
        write(self.folder / "log.md", "\n".join(lines) + "\n")

    # --- what ways said ---------------------------------------------------------------------------

    def place(self, way: str) -> Path:
        """Where the ordinary run of a way is."""
        return self.folder / "runs" / job_name([way.replace(" ", "_")])

    def remember(self, way: str, logits: Tensor) -> None:
        """Keep what a way says `[N, classes]`; NaN is what it wasn't asked."""
        with beside(self._file(way)) as partial:
            save_file({"logits": logits.contiguous()}, partial)

    def said(self, way: str, photos: int, classes: int) -> Tensor:
        """What a way has said before `[photos, classes]`, in float32; all NaN if nothing.

        Raises:
            UserError: the file is damaged.
        """
        file = self._file(way)
        if not file.exists():
            return torch.full((photos, classes), torch.nan)
        with damage(file):
            try:
                with safe_open(file, "pt") as opened:
                    logits = opened.get_tensor("logits")
            except Exception as error:  # of safetensors' own class
                raise Wrong(str(error)) from error
            if tuple(logits.shape) != (photos, classes):
                raise Wrong(f"it is of {tuple(logits.shape)}, not {(photos, classes)}")
        return logits.float()

    def _file(self, way: str) -> Path:
        return self.folder / "tries" / f"{self.place(way).name}.safetensors"


def say(line: str, style: str = "") -> None:
    """Print a line as it is, and note it in the log file."""
    log.debug("%s", line)
    get_console().print(Text(wrapped(printable(line)), style), soft_wrap=True)
