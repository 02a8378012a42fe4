"""`thaw best` in the repository: python scripts/best.py data=… minutes=10"""

from thaw.commands.best import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
