"""Make the pictures of README.md from a real run on what Thaw draws: python docs/pictures.py

It needs Chromium, which takes the screenshots.
"""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image, ImageOps

FOLDER = Path(__file__).parent / "pictures"
WIDTH, EDGE = 1200, 16  # pixels of a picture, and between two
PORT = 6107
BROWSER = ("chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu")


def main() -> None:
    """Train, take the screenshots, write them small."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        train = [sys.executable, "-m", "thaw", "train", "finetune=last_block", "hydra.run.dir=run"]
        subprocess.run(train, cwd=place, check=True, env={**os.environ, "PYTHONSAFEPATH": "1"})
        run = Path(place, "run")
        report = screenshot((run / "report.html").as_uri(), Path(place, "report.png"), 900)
        save(stacked([strip(Path(place, "data")), report]), "run.png")
        logdir = ("--logdir", str(run), "--port", str(PORT))
        board = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *logdir])
        try:
            address = f"http://localhost:{PORT}"
            wait_for(address)
            curves = f"{address}/#custom_scalars"
            save(screenshot(curves, Path(place, "board.png"), 760), "tensorboard.png")
        finally:
            board.terminate()
            board.wait()


def screenshot(address: str, path: Path, height: int) -> Image.Image:
    """What a browser of 1280 pixels shows at an address."""
    how = (f"--window-size=1280,{height}", f"--screenshot={path}", "--virtual-time-budget=20000")
    subprocess.run([*BROWSER, *how, address], check=True, timeout=300)
    return Image.open(path).convert("RGB")


def strip(data: Path) -> Image.Image:
    """A train photo of each class, and one more, side by side."""
    classes = sorted(data.glob("*/train/*"))
    photos = [sorted(folder.iterdir())[3] for folder in classes]
    side = (1280 - EDGE * (len(photos) + 1)) // len(photos)
    row = Image.new("RGB", (1280, side + 2 * EDGE), "white")
    for i, photo in enumerate(photos):
        row.paste(ImageOps.fit(Image.open(photo), (side, side)), (EDGE + i * (side + EDGE), EDGE))
    return row


def stacked(images: list[Image.Image]) -> Image.Image:
    """Images of one width, one below the other."""
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def save(image: Image.Image, name: str) -> None:
    """Write a picture of `WIDTH` pixels and few colours: the repository keeps them all."""
    height = round(image.height * WIDTH / image.width)
    small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(96, Image.Quantize.MEDIANCUT).save(FOLDER / name, optimize=True)


def wait_for(address: str) -> None:
    """Until a server answers, at most two minutes."""
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(address)


if __name__ == "__main__":
    main()
