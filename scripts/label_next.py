"""`thaw label-next` in the repository: python scripts/label_next.py RUN FOLDER --count 50"""

from thaw.commands.label_next import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
