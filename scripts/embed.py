"""`thaw embed` in the repository: python scripts/embed.py RUN PHOTO_OR_FOLDER… --output FILE"""

from thaw.commands.embed import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
