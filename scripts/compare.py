"""`thaw compare` in the repository: python scripts/compare.py RUN_OR_SWEEP…"""

from thaw.commands.compare import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
