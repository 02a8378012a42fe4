"""`thaw benchmark` in the repository: python scripts/benchmark.py [--rows head sweep] [--quick]"""

from thaw.commands.benchmark import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
