"""What is said before each training (`data.check`) beyond what the data says of itself.

`warn` costs nothing: names of classes. `strict` also refuses copies of a photo in two splits that
aren't the same bytes; that decodes each photo once, at an eighth of its size, and is then kept.
"""

import logging

import torch

from thaw.checks import classes, duplicates
from thaw.checks.facts import Looks
from thaw.checks.findings import Context, several
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.errors import UserError

log = logging.getLogger(__name__)
SHOWN = 3  # pairs in a message


def before_training(data: PhotoFolder, cache: FeatureCache, how: str) -> None:
    """Say what is wrong with the photos.

    Args:
        how: `warn` says it, `strict` refuses leaks too, `off` does nothing.

    Raises:
        UserError: `how` is strict, and a photo or a copy of it is in two splits.
    """
    if how == "off":
        return
    for finding in classes.alike(data):
        log.warning("%s.", finding.detail[0].upper() + finding.detail[1:])
    if how != "strict":
        return
    leaks = across_splits(data, cache)
    if leaks:
        shown = ", ".join(f"{one} = {other}" for one, other in leaks[:SHOWN])
        more = ", …" if len(leaks) > SHOWN else ""
        raise UserError(
            f"Expected no photo in two splits with data.check=strict, but there are"
            f" {several(len(leaks), 'pair')}: {shown}{more}; thaw check lists them, and data.fixes"
            " drops one of each."
        )


def across_splits(data: PhotoFolder, cache: FeatureCache) -> list[tuple[str, str]]:
    """Pairs of paths in two splits that are the same photo, told by thumbnails, without a net."""
    samples = [sample for split in data.splits for sample in data.splits[split]]
    splits = [split for split in data.splits for _ in data.splits[split]]
    contents = [digest for split in data.splits for digest in data.digests(split)]
    looks = Looks(cache, data.white).all(data.paths_by_digest())
    there = [i for i, digest in enumerate(contents) if digest in looks]
    context = Context(
        data=data,
        see=None,
        splits=[splits[i] for i in there],
        samples=[samples[i] for i in there],
        digests=[contents[i] for i in there],
        files=[],
        looks=torch.stack([looks[contents[i]] for i in there]),
        features=torch.zeros(len(there), 1),
    )
    return [
        (context.path(pair.one), context.path(pair.other))
        for pair in duplicates.pairs(context)
        if context.splits[pair.one] != context.splits[pair.other] and pair.kind != "scene"
    ]
