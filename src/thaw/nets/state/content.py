"""What a file is that holds no weights for PyTorch, told by its content and not by its name."""

import json
import tarfile
import zipfile
from pathlib import Path

START = 4096  # bytes that tell what a file is
MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras and TensorFlow write it; its weights are not of"
    " PyTorch",
    b"\x93NUMPY": "an array of NumPy",
    b"GGUF": "a GGUF file, as language models come",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ\x00": "an xz archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"RIFF": "a picture",
}
SAVE = 'save them where that model is: torch.save(model.state_dict(), "weights.pth")'


def foreign(path: Path) -> str | None:
    """What this file is, where it is known to be no weights of PyTorch; else None.

    Raises:
        OSError: it can't be opened.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(START)
    if not start:
        return "empty"
    if not start.strip(b"\0"):
        return f"{size:,} bytes that begin with nothing but zeros, as a download that broke off"
    for magic, words in MAGIC.items():
        if start.startswith(magic):
            return words
    if start.startswith(b"PK"):
        return _zip(path)
    if start[4:8] == b"TFL3":
        return "a model of TensorFlow Lite; its weights are not of PyTorch"
    if tarfile.is_tarfile(path):
        return "a tar archive; unpack it and name the file of weights in it"
    if start[0] == 0x08 and 1 <= start[1] <= 20 and start[2:3] in (b"\x12", b"\x1a", b":", b"B"):
        return f"an ONNX model, which is a program and not only weights; {SAVE}"
    return _text(start, size)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, and then the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 30


def _zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError):
        return (
            f"cut short or damaged: it begins as a file of torch.save does, but after"
            f" {path.stat().st_size:,} bytes its end is missing; download or copy it again"
        )
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return f"a TorchScript model, which is a program and not only weights; {SAVE}"
    if "data.pkl" in inner:
        return None  # of torch.save
    ends = {Path(name).suffix for name in names}
    if "archive_format" in inner or any("exported_program" in name for name in names):
        return f"a program of torch.export, and not only weights; {SAVE}"
    if "model.weights.h5" in names:
        return "a model of Keras; its weights are not of PyTorch"
    if ends == {".npy"}:
        return "an archive of NumPy arrays (.npz)"
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"a zip archive of {few or 'nothing'}; unpack it and name the file of weights in it"


def _text(start: bytes, size: int) -> str | None:
    try:
        # A letter may be cut at the end of what was read.
        text = start.decode("utf-8", "strict" if size <= START else "ignore").lstrip("\ufeff \r\n")
    except UnicodeDecodeError:
        return None
    if any(ord(letter) < 32 and letter not in "\t\r\n\f\x1b" for letter in text):
        return None
    if text.startswith("version https://git-lfs"):
        return "a pointer of Git LFS in place of the file; fetch the file itself with: git lfs pull"
    lower = text.lower()
    if lower.startswith(("<!doctype html", "<html", "<head")) or "<html" in lower:
        return "a web page in place of the file, as a link that asks for a login gives; download it"
    if "weight_map" in text:
        return "a list of the files that hold the weights, not one of them"
    kind = "text"
    if text.startswith(("{", "[")):
        kind = "JSON" if size > START or _is_json(text) else "text"
    begin = " ".join(text.split())[:40]
    return f"{kind} ({begin!r}…), not weights"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def folder(path: Path) -> str:
    """What a folder holds that has no weights in it which could be taken."""
    names = sorted(inside.name for inside in path.iterdir())
    if "saved_model.pb" in names:
        return "a SavedModel of TensorFlow; its weights are not of PyTorch"
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return (
            "a distributed checkpoint; make one file of it with python -m"
            f" torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    if "data.pkl" in names:
        return "a file of torch.save that was unpacked; name the file itself"
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"a folder with {few or 'nothing in it'}, but no weights"
