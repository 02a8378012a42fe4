"""`thaw shortlist` in the repository: python scripts/shortlist.py data=… archs=NET,NET"""

from thaw.commands.shortlist import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
