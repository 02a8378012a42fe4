"""`thaw train` in the repository, where nothing need be on the path: python train.py KEY=VALUE …

python train.py                                           # with what the install brings
python train.py arch=resnet18 data=folder data.root=PATH  # your own photos
python train.py -m arch=efficientnet_b0,resnet18          # a sweep
python train.py resume=outputs/runs/DATE/RUN              # go on where it stopped

A run is build → assemble → fit → test → leave: src/thaw/commands/one_run.py reads in that order.
"""

from thaw.commands.train import start
from thaw.launch import cli

if __name__ == "__main__":
    cli.command(start)
