"""Open a page on which a trained model labels photos: thaw serve RUN"""

import argparse
import importlib.util
import os
import socket
from pathlib import Path

from thaw import files
from thaw.errors import UserError
from thaw.launch import cli
from thaw.runs import read


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
    parser.add_argument("--name", help="what the page calls the model; its net's name")
    cli.add_net(parser)
    arguments = parser.parse_args()
    files.check_inputs(("RUN", arguments.run))
    needed = ("starlette", "uvicorn", "python_multipart")
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f'Serving needs {", ".join(missing)}: pip install "thaw-vision[serve]".')

    if arguments.run.suffix != ".onnx":
        read.bundle(arguments.run)
        cli.say_loading()
    with listening(arguments.host, arguments.port) as door:
        from thaw.model import doorman
        from thaw.model.serve import app  # torch is imported from here on, not for --help

        application = app(arguments.run, arguments.name, arguments.host)
        port = door.getsockname()[1]
    print(f"http://{arguments.host}:{port}  (Ctrl-C ends it)", flush=True)
    doorman.run(application, arguments.host, port)


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address, held while the model is loaded: no other program gets it.

    Raises:
        UserError: there is no such address or port here, or another program has it.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"Expected --port to be from 0 to 65535 (0: any that is free), got {port}.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0  # below 0: of looking up a name
        why = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"Expected an address that is free in --host {host} --port {port}, but"
            f" {why[:1].lower()}{why[1:]}; --port 0 takes any port that is free."
        ) from error
