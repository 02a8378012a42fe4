"""`thaw archs` in the repository: python scripts/archs.py"""

from thaw.commands.archs import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
