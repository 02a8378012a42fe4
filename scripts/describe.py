"""`thaw describe` in the repository: python scripts/describe.py ARCH|RUN [--finetune NAME]"""

from thaw.commands.describe import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
