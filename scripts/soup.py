"""`thaw soup` in the repository: python scripts/soup.py SWEEP"""

from thaw.commands.soup import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
