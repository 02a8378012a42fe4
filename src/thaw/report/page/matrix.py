"""The confusion matrix of a page: cells that open the photos behind them, and the worst pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from thaw.page.pictures import Thumbnails
from thaw.runs.read import Answer

MANY = 12  # classes, from which on cells are small
A_CELL = 12  # photos of a cell of mistakes that are shown, and a third of them of one of hits
LISTED = 1500  # photos behind all cells
PAIRS = 15  # most confused ones


@dataclass
class Cell:
    """Photos of one class that were taken for one class."""

    row: int
    column: int
    count: int
    share: float  # of the row's photos
    photos: list[Answer] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its anchor in the page."""
        return f"c{self.row}-{self.column}"

    @property
    def hit(self) -> bool:
        """Whether these are right."""
        return self.row == self.column


class Matrix:
    """Rows are true classes, columns what was said.

    Args:
        confusion: counts `[classes][classes]`.
        answers: of each photo; for the photos behind cells.
    """

    def __init__(
        self,
        confusion: Sequence[Sequence[int]],
        classes: Sequence[str],
        answers: Sequence[Answer],
    ) -> None:
        self.classes = list(classes)
        self.many = len(classes) > MANY
        self.rows = [
            [Cell(i, j, n, n / max(1, sum(row))) if n else None for j, n in enumerate(row)]
            for i, row in enumerate(confusion)
        ]
        number = {name: i for i, name in enumerate(classes)}
        found: dict[tuple[int, int], list[Answer]] = {}
        for answer in answers:
            if answer.label in number and answer.prediction in number:
                place = number[answer.label], number[answer.prediction]
                found.setdefault(place, []).append(answer)
        left = LISTED
        for cell in self.by_need():
            photos = found.get((cell.row, cell.column), [])
            # Of mistakes the surest, of hits those that were nearly none.
            photos.sort(key=lambda a: a.confidence if cell.hit else -a.confidence)
            cell.photos = photos[: min(left, A_CELL // 3 if cell.hit else A_CELL)]
            left -= len(cell.photos)

    def cells(self) -> Iterator[Cell]:
        """All that hold photos."""
        for row in self.rows:
            yield from (cell for cell in row if cell)

    def by_need(self) -> list[Cell]:
        """Cells in the order in which one wants to see their photos: mistakes, many first."""
        return sorted(self.cells(), key=lambda cell: (cell.hit, -cell.count, cell.row, cell.column))

    @property
    def pairs(self) -> list[Cell]:
        """The most confused pairs."""
        return [cell for cell in self.by_need() if not cell.hit][:PAIRS]

    @property
    def mistakes(self) -> int:
        """Photos that are wrong."""
        return sum(cell.count for cell in self.cells() if not cell.hit)

    def draw(self, thumbnails: Thumbnails) -> None:
        """Make the thumbnails that the cells show, while there is room."""
        thumbnails.make(photo.path for cell in self.by_need() for photo in cell.photos)
