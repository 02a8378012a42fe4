"""`thaw export` in the repository: python scripts/export.py RUN"""

from thaw.commands.export import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
