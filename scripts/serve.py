"""`thaw serve` in the repository: python scripts/serve.py RUN"""

from thaw.commands.serve import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
