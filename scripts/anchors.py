"""`thaw anchors` in the repository: python scripts/anchors.py [SET …]"""

from thaw.commands.anchors import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
