"""`thaw check` in the repository: python scripts/check.py data=…"""

from thaw.commands.check import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
