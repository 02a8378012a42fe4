"""Labels from a table, and tables that mend: what each says, and what the user sees of it."""

import io
import os
from pathlib import Path
from unicodedata import normalize

import pytest
from conftest import paint

from thaw.data.folder import PhotoFolder
from thaw.errors import UserError
from thaw.files import write_csv

ROWS = [(f"img/{i}.png", str(i % 2 * 10)) for i in range(12)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """img/ with 12 photos, more/ with 2; tests put their tables beside them."""
    root = tmp_path_factory.mktemp("table")
    for i in range(14):
        folder = "img" if i < 12 else "more"
        paint(root / folder / f"{i}.png", (90, 90, 90), i, size=(9, 8))
    return root


def text(*more: tuple[str, ...], head: str = "path,label", rows=ROWS, sep: str = ",") -> str:
    lines = [head.split(","), *rows, *more]
    return "\n".join(sep.join(line) for line in lines) + "\n"


def parquet(number: type = int, **more: list) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    file = io.BytesIO()
    columns = {"Path": [path for path, _ in ROWS], "label": [number(label) for _, label in ROWS]}
    columns |= more
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def column(values: list[str]) -> list[tuple[str, ...]]:
    return [(*row, value) for row, value in zip(ROWS, values, strict=True)]


SPLIT = "path,label,split"
PARTS = ["Train"] * 8 + ["TESTING"] * 4
# What the table holds, settings, photos in each split, words that are said.
READ: dict[str, tuple[str | bytes, dict[str, object], tuple[int, int, int], list[str]]] = {
    "commas": (text(), {}, (8, 2, 2), ["2 photos without a row (more/12.png"]),
    "semicolons, other case": (text(head="Path,LABEL", sep=";"), {}, (8, 2, 2), []),
    "tabs, UTF-16": (text(sep="\t").encode("utf-16"), {}, (8, 2, 2), ["read as UTF-16"]),
    "a BOM": (text().encode("utf-8-sig"), {}, (8, 2, 2), []),
    "Latin-1": (
        text(("more/12.png", "é"), ("more/13.png", "é")).encode("latin-1"),
        {},
        (9, 2, 3),
        ["read as Latin-1"],
    ),
    "backslashes": (text().replace("/", "\\"), {}, (8, 2, 2), []),
    "quotes": (
        '"path","label"\n' + "".join(f'"{p}","a ""{c}"", b"\n' for p, c in ROWS),
        {},
        (8, 2, 2),
        [],
    ),
    "Parquet": (parquet(), {}, (8, 2, 2), []),
    "NaN for nothing in Parquet": (
        parquet(float, group=[i // 2 if i % 2 else float("nan") for i in range(12)]),
        {},
        (8, 2, 2),
        ["6 groups", "6 photos in none"],
    ),
    "NaN for nothing": (text(("more/12.png", "nan")), {}, (8, 2, 2), ["1 row without a label"]),
    "a line for Excel": ("sep=;\r\n" + text(sep=";"), {}, (8, 2, 2), []),
    "rows without a photo or label": (
        text(("gone.png", "0"), ("more/12.png", "")),
        {},
        (8, 2, 2),
        ["1 row without a photo (gone.png)", "1 row without a label", "1 photo without a row"],
    ),
    "a row twice": (text(ROWS[0]), {}, (8, 2, 2), ["1 row saying the same again"]),
    "a split": (text(head=SPLIT, rows=column(PARTS)), {}, (6, 2, 4), []),
    "a split for some": (
        text(head=SPLIT, rows=column(["val"] * 2 + ["test"] * 2 + [""] * 8)),
        {},
        (8, 2, 2),
        ["8 rows without a split, which count as train"],
    ),
    "groups": (
        text(head="path,label,group", rows=column([f"p{i // 2}" for i in range(12)])),
        {},
        (8, 2, 2),
        ["6 groups (data.group=column)"],
    ),
    "groups by another name": (
        text(head="path,label,Patient", rows=column([f"p{i // 2}" for i in range(12)])),
        {"group": "Patient"},
        (8, 2, 2),
        ["6 groups"],
    ),
    "groups in two splits": (
        text(
            head="path,label,split,group",
            rows=[(*row, f"p{i % 4}") for i, row in enumerate(column(PARTS))],
        ),
        {},
        (6, 2, 4),
        ["4 of 4 groups are in several splits at once"],
    ),
}

REFUSED: dict[str, tuple[str | bytes, list[str]]] = {
    "other columns": (text(head="file,label"), ["path, label", "file, label", "it lacks path"]),
    "nothing": ("", ["nothing"]),
    "no table": (b"\x00\x01\x02\xff", ["it is no text"]),
    "a quote that doesn't end": (
        text().replace("img/3", '"img/3'),
        ["in line 5 a value begins", "never closed"],
    ),
    "test alone": (text(head=SPLIT, rows=column(["test"] * 12)), ["no photo is of train (12 of"]),
    "Excel": (b"PK\x03\x04 and so on", ["Excel", "save it as CSV"]),
    "a damaged Parquet file": (b"PAR1zz", ["Expected a Parquet file"]),
    "a comma too many": (
        text(("",), ("", '"two\nlines"'), ("a,b.png", "0")),
        ["line 17 has more", "needs quotes"],
    ),
    "a column twice": ("path,label,path\na,b,c\n", ["path more than once"]),
    "two labels": (
        text((ROWS[0][0], "x"), (f"./{ROWS[1][0]}", "x")),
        ["2 photos have more than one label", "img/0.png: 0, x"],
    ),
    "two splits": (
        text(head=SPLIT, rows=[(*ROWS[0], "train"), (*ROWS[0], "test")]),
        ["1 photo has more than one split"],
    ),
    "an unknown split": (
        text(head=SPLIT, rows=column(["holdout"] * 12)),
        ["expected train, val, test or nothing", "'holdout' (12 times)"],
    ),
    "no photo": (text(rows=[("x.png", "0")]), ["none of its 1 row has both", "x.png"]),
    "one label": (text(rows=[(path, "a") for path, _ in ROWS]), ["expected 2 classes or more"]),
}


def read(photos: Path, content: str | bytes, **settings: object) -> PhotoFolder:
    file = photos / "labels.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        return PhotoFolder(None, file=str(file), **settings).ready()  # type: ignore[arg-type]
    finally:
        file.unlink()


@pytest.mark.parametrize("kind", READ)
def test_a_table_is_read(photos: Path, kind: str, caplog):
    content, settings, counts, words = READ[kind]
    with caplog.at_level("INFO"):
        data = read(photos, content, **settings)
    assert tuple(map(len, data.splits.values())) == counts
    assert kind in ("Latin-1", "quotes") or data.classes == ["0", "10"]
    assert all((data.root / s.path).is_file() for s in data.splits["train"])
    for word in words:
        assert word in caplog.text


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_cannot_be_used_is_refused(photos: Path, kind: str):
    content, words = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        read(photos, content)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", ""])
def test_a_table_that_is_not_there_is_named(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"data\.file=.*can't be read"):
        PhotoFolder(None, file=str(tmp_path / name)).ready()


def test_paths_may_begin_in_the_root_or_be_absolute(photos: Path, tmp_path: Path):
    rows = [(str(photos / path) if i < 4 else path, c) for i, (path, c) in enumerate(ROWS)]
    (tmp_path / "labels.csv").write_text(text(rows=rows))
    data = PhotoFolder(str(photos), file=str(tmp_path / "labels.csv")).ready()
    found = sorted(s.path for split in data.splits.values() for s in split)
    assert found == sorted(path for path, _ in ROWS)


def test_accents_are_the_same_however_they_are_stored(tmp_path: Path):
    for i, (path, _) in enumerate(ROWS):
        paint(tmp_path / path, (90, 90, 90), i, size=(9, 8))
    (tmp_path / "img/0.png").rename(tmp_path / f"img/{normalize('NFD', 'ä.png')}")
    rows = [(normalize("NFC", "img\\ä.png"), "0"), *ROWS[1:]]
    (tmp_path / "labels.csv").write_text(text(rows=rows))
    (tmp_path / "fixes.csv").write_text("path,action\n" + normalize("NFC", "img/ä.png,drop\n"))
    files = {name: str(tmp_path / f"{name}.csv") for name in ("labels", "fixes")}
    data = PhotoFolder(None, file=files["labels"], fixes=files["fixes"]).ready()
    assert data.counts()["data/dropped"] == 1
    assert sum(map(len, data.splits.values())) == 11


# --- data.fixes -----------------------------------------------------------------------------------

HEAD = "issue,path,other,score,detail,action\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train/ and test/ with a/ and b/, 6 and 2 photos in each."""
    for split, count in (("train", 6), ("test", 2)):
        for label in "ab":
            for i in range(count):
                seed = ord(label) + 1000 * count + i * 7
                paint(tmp_path / "photos" / split / label / f"{i}.png", (90, 90, 90), seed, (9, 8))
    return tmp_path / "photos"


def fixed(folder: Path, rows: str) -> PhotoFolder:
    file = folder.parent / "check.csv"
    file.write_text(rows)
    return PhotoFolder(str(folder), fixes=str(file)).ready()


def test_fixes_drop_and_relabel_and_are_recorded(folder: Path, caplog):
    before = PhotoFolder(str(folder)).ready()
    rows = (
        "label,train/a/1.png,b,0.9,,label:b\n"
        f"duplicate,{folder}/train/a/2.png,,,,drop\n"
        "leak,photos/test/a/1.png,train/a/0.png,,,DROP\n"
        "label,train\\b\\0.png,,,,keep\n"
        "label,train/b/1.png,,,,\n"
    )
    with caplog.at_level("INFO"):
        data = fixed(folder, HEAD + rows)
    assert "2 photos dropped and 1 relabelled" in caplog.text
    assert "1 of them are test photos" in caplog.text
    described = data.describe_splits()
    assert described["dropped"] == [
        {"path": "test/a/1.png", "reason": "data.fixes: leak"},
        {"path": "train/a/2.png", "reason": "data.fixes: duplicate"},
    ]
    assert described["relabelled"] == [{"path": "train/a/1.png", "from": "a", "to": "b"}]
    labels = {p["path"]: p["label"] for s in ("train", "val", "test") for p in described[s]}
    assert labels["train/a/1.png"] == "b"
    assert len(labels) == 14
    assert data.digest() != before.digest()
    assert sorted(folder.rglob("*.png")) == sorted(before.root.rglob("*.png"))


def test_fixes_read_what_thaw_check_writes_of_any_name(tmp_path: Path):
    names = ["=x", "@y", " a", "b ", "é", os.fsdecode(b"caf\xe9"), "two\nlines", 'a,"b']
    for i, name in enumerate(names):
        for k in range(8):
            paint(tmp_path / "photos" / name / f"{k}.png", (90, 90, 90), 10 * i + k, (9, 8))
    rows = [{"path": f"{name}/0.png", "action": "drop"} for name in names]
    rows += [
        {"path": f"{name}/1.png", "action": f"label:{names[i - 1]}"} for i, name in enumerate(names)
    ]
    write_csv(tmp_path / "check.csv", rows)
    whole = (tmp_path / "check.csv").read_bytes()
    for table in (whole, whole.replace(rb"\udce9", b"\xe9")):  # or as `ls` has that name
        (tmp_path / "check.csv").write_bytes(table)
        done = (
            PhotoFolder(str(tmp_path / "photos"), fixes=str(tmp_path / "check.csv"))
            .ready()
            .describe_splits()
        )
        dropped = {row["path"].partition("/")[0] for row in done["dropped"]}
        changed = {row["from"]: row["to"] for row in done["relabelled"]}
        assert dropped == {*names}
        assert changed == {name: names[i - 1] for i, name in enumerate(names)}


def test_fixes_without_an_action_say_so(folder: Path, caplog):
    with caplog.at_level("INFO"):
        fixed(folder, HEAD + "label,train/b/1.png,,,,\n")
    assert "has no action, so it changes nothing" in caplog.text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (HEAD + "x,nope.png,,,,drop\n", "there is no photo nope.png"),
        (HEAD + f"x,{'long' * 99}.png,,,,drop\n", "there is no photo longlong"),
        (HEAD + 'x,"train/a/1.png,,,,drop\nx,train/a/2.png,,,,drop\n', "line 2"),
        (HEAD + "x,train/a/1.png,,,,label:wasp\n", "'wasp'"),
        (HEAD + "x,train/a/1.png,,,,remove\n", "'remove'"),
        (HEAD + "x,train/a/1.png,,,,label:\n", "'label:'"),
        (HEAD + "x,,,,,drop\n", "a row without a path"),
        (HEAD + "x,train/a/1.png,,,,drop\nx,train/a/1.png,,,,label:b\n", "contradict each other"),
        (
            HEAD + "x,train/a/1.png,,,,label:a\nx,./train/a/1.png,,,,label:b\n",
            "label:a and label:b",
        ),
        ("path,what\nx,y\n", "it lacks action"),
        (
            HEAD + "".join(f"x,train/a/{i}.png,,,,drop\n" for i in range(6)),
            "check.csv, can't be used: expected 2 classes",
        ),
    ],
)
def test_fixes_that_cannot_be_done_are_refused(folder: Path, rows: str, words: str):
    with pytest.raises(UserError) as caught:
        fixed(folder, rows)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
