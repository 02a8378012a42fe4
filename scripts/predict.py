"""`thaw predict` in the repository: python scripts/predict.py RUN PHOTO_OR_FOLDER…"""

from thaw.commands.predict import main
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(main)
