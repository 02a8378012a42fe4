"""What is said before each training (`data.check`) beyond what the data says of itself.

That are names of classes, and copies of a photo in two splits that aren't the same bytes. For these
each photo is decoded once, at an eighth of its size (2 ms), and what was seen of it is then kept.
"""

import logging

import torch

from thaw.checks import classes, duplicates
from thaw.checks.facts import Looks
from thaw.checks.findings import Context
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.listing.listed import few, many
from thaw.errors import UserError
from thaw.launch import cli

log = logging.getLogger(__name__)
MANY = 5000  # photos, from which on copies are looked for on demand alone


def before_training(data: PhotoFolder, cache: FeatureCache, how: str) -> list[str]:
    """Say what is wrong with the photos; returns the sentences.

    Args:
        how: `warn` says it, `strict` refuses copies in two splits, `off` does nothing.

    Raises:
        UserError: `how` is strict, and a copy of a photo is in another split.
    """
    if how == "off" or not cli.is_first_process():
        return []
    said = [f"{f.detail[0].upper()}{f.detail[1:]}." for f in classes.alike(data)]
    if not (how == "warn" and sum(map(len, data.splits.values())) > MANY):
        said += _copies(data, cache, how)
    for sentence in said:
        log.warning("%s", sentence)
    return said


def _copies(data: PhotoFolder, cache: FeatureCache, how: str) -> list[str]:
    copies = across_splits(data, cache)
    if not copies:
        return []
    says = f"{many(len(copies))} {'is' if len(copies) == 1 else 'are'} in another split as a copy"
    says += f" ({few(f'{one} = {other}' for one, other in copies)})"
    lists = f"{cli.door('check')} lists them, and data.fixes drops one of each"
    if how == "strict":
        raise UserError(f"The photos in {data.root} can't be used: {says}; {lists}.")
    return [f"{says}, so scores are too good; {lists}."]


def across_splits(data: PhotoFolder, cache: FeatureCache) -> list[tuple[str, str]]:
    """Pairs of paths in two splits that are copies, told by thumbnails, without a net.

    Those that are the same bytes aren't among them: the data finds them itself.
    """
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
        if pair.kind == "copy" and context.splits[pair.one] != context.splits[pair.other]
    ]
