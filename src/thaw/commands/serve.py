"""Open a page on which a trained model labels photos: thaw serve RUN"""

import argparse
import importlib.util
from pathlib import Path

from thaw.errors import UserError
from thaw.launch import cli


def main() -> None:
    """Read the arguments, serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="Serve a page on which photos are dropped, and POST /predict for programs:"
        " curl -F photo=@a.jpg http://127.0.0.1:8000/predict"
    )
    parser.add_argument("run", type=Path, help="a run folder, its model/, or an ONNX file")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="who may come: 127.0.0.1 is this machine alone, 0.0.0.0 everyone on the network",
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--name", help="what the page calls the model; the folder's name")
    cli.add_net(parser)
    arguments = parser.parse_args()
    needed = ("starlette", "uvicorn", "python_multipart")
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f'Serving needs {", ".join(missing)}: pip install "thaw-vision[serve]".')

    from thaw.model import doorman
    from thaw.model.serve import app  # torch is imported from here on, not for --help

    application = app(arguments.run, arguments.name, arguments.host)
    print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C ends it)", flush=True)
    doorman.run(application, arguments.host, arguments.port)
