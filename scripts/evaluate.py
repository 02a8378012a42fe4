"""`thaw evaluate` in the repository: python scripts/evaluate.py RUN [--data DIR]"""

from thaw.commands.evaluate import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
