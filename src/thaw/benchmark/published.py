"""Sets of photos that others have published accuracies on: where they are, and the figures."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thaw.errors import UserError
from thaw.fetch import download, fetch_folder
from thaw.files import scratch, write_csv

FLOWERS = (
    "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    "6f87fb78e9cc9ab41eff2015b380011d",
)
BEANS = "https://storage.googleapis.com/ibeans/"


@dataclass(frozen=True)
class Figure:
    """What others have measured: test accuracy in percent, how, and where it is written."""

    accuracy: str
    recipe: str
    source: str


@dataclass(frozen=True)
class Known:
    """A set of photos. `settings` downloads it into a folder, unless it is there, and says how
    `thaw train` reads it.
    """

    settings: Callable[[Path], list[str]]
    figures: tuple[Figure, ...]


def unpacked(url: str, md5: str, folder: Path) -> None:
    """Download an archive, and unpack it into a folder unless that is there.

    Raises:
        UserError: no network, or what came isn't what was published.
    """
    from torchvision.datasets.utils import check_integrity

    if folder.is_dir():
        return
    archive = download(url, folder.with_name(url.rsplit("/", 1)[-1]))
    if not check_integrity(str(archive), md5):
        archive.unlink()
        raise UserError(f"What came from {url} isn't what was published there (its MD5 differs).")
    with scratch(folder) as partial:
        shutil.unpack_archive(archive, partial / "whole", filter="data")
        (partial / "whole").rename(folder)
    archive.unlink()


def pets(root: Path) -> list[str]:
    """Oxford-IIIT Pets, in its own splits; a photo's name says its breed."""
    from torchvision.datasets import OxfordIIITPet

    for url, md5 in OxfordIIITPet._RESOURCES:
        unpacked(url, md5, root / url.rsplit("/", 1)[-1].partition(".")[0])
    rows = []
    for split, file in (("train", "trainval"), ("test", "test")):
        text = (root / "annotations" / "annotations" / f"{file}.txt").read_text(encoding="utf-8")
        names = [line.split()[0] for line in text.splitlines() if line]
        rows += [_row(f"images/images/{n}.jpg", n.rpartition("_")[0], split) for n in names]
    return _table(root, rows)


def flowers102(root: Path) -> list[str]:
    """Oxford's 102 flowers, in their own splits; labels are numbers."""
    from torchvision.datasets import Flowers102

    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError("The labels of flowers102 are read by scipy: pip install scipy.") from error
    base, files = Flowers102._download_url_prefix, Flowers102._file_dict
    unpacked(base + files["image"][0], files["image"][1], root / "images")
    mats = {
        key: loadmat(download(base + files[key][0], root / files[key][0]))
        for key in ("label", "setid")
    }
    labels, rows = mats["label"]["labels"][0], []
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        for number in mats["setid"][key][0].tolist():
            path = f"images/jpg/image_{number:05}.jpg"
            rows.append(_row(path, f"{labels[number - 1]:03}", split))
    return _table(root, rows)


def tf_flowers(root: Path) -> list[str]:
    """TensorFlow's 3,670 flowers; Thaw cuts test and val off, as nobody's splits are published."""
    unpacked(*FLOWERS, root / "photos")
    return ["data=folder", f"data.root='{root / 'photos' / 'flower_photos'}'"]


def beans(root: Path) -> list[str]:
    """iBeans, leaves with two diseases or none, in its own splits."""
    for split in ("train", "validation", "test"):
        fetch_folder(f"{BEANS}{split}.zip", root / split, inner=split)
    return ["data=folder", f"data.root='{root}'", "data.val=validation"]


def hymenoptera(root: Path) -> list[str]:
    """Ants and bees, of PyTorch's tutorial; what it calls val is the test."""
    return ["data=hymenoptera", f"data.root='{root}'"]


def folder(root: Path) -> list[str]:
    """Photos of the user's own; val is the test where that is missing, as in hymenoptera."""
    words = ["data=folder", f"data.root='{root}'"]
    alike = (root / "val").is_dir() and not (root / "test").is_dir()
    return [*words, "data.test=val", "data.val=null"] if alike else words


def _row(path: str, label: str, split: str) -> dict[str, str]:
    return {"path": path, "label": label, "split": split}


def _table(root: Path, rows: list[dict[str, str]]) -> list[str]:
    write_csv(root / "labels.csv", rows)
    return ["data=table", f"data.file='{root / 'labels.csv'}'"]


FASTAI = "tcapelle/fastai_timm, fastai_timm.csv"
ST = "STMicroelectronics/stm32ai-modelzoo, image_classification/mobilenetv2"
SAME = "measured with the same photos and weights"
KNOWN = {
    "pets": Known(
        pets,
        (
            Figure("87.5-89.4", "efficientnet_lite0, fine_tune(5), random 80/20, six runs", FASTAI),
            Figure("89.7-90.6", "resnet18, the same", FASTAI),
            Figure("94.5", "BiT-M R152x4, a ceiling", "Kolesnikov et al. 2020"),
        ),
    ),
    "flowers102": Known(
        flowers102, (Figure("99.3", "BiT-M R152x4, a ceiling", "Kolesnikov et al. 2020"),)
    ),
    "tf_flowers": Known(
        tf_flowers,
        (
            Figure("89.0", "mobilenet_v2 0.35 at 224, last layer; split not told", ST),
            Figure("93.6", "mobilenet_v2 0.35 at 224, last layer, then all", ST),
        ),
    ),
    "beans": Known(
        beans,
        (
            Figure("97.7", "ViT-B/16, 5 epochs at 2e-5; best of them on these val photos",
                   "nateraw/vit-base-beans, model card"),
        ),
    ),
    "hymenoptera": Known(
        hymenoptera,
        (
            Figure("95.4", "resnet18, head, best of 25 epochs on these photos",
                   "PyTorch, transfer learning tutorial"),
            Figure("90.9", "efficientnet_lite0, fastai 2.8 fine_tune", SAME),
            Figure("91.5", "efficientnet_lite0, the lesson's loop", SAME),
        ),
    ),
    "flowers": Known(
        folder,
        (
            Figure("62", "efficientnet_lite0, fastai 2.8 fine_tune", SAME),
            Figure("53.5", "efficientnet_lite0, the lesson's loop", SAME),
        ),
    ),
}  # fmt: skip
