"""What training made a pretrained net forget: how far its features and ImageNet answers moved.

The photos are those of val, never test. The trained net is that of the last epoch, not of the best:
where thawing does harm, the best epoch on val is one from before it, which forgot nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from thaw.data.dataset import PhotoDataset, collate
from thaw.data.folder import PhotoFolder
from thaw.nets.backbone import Backbone
from thaw.training.schedule import Schedule


@dataclass(frozen=True)
class Moved:
    """Of each val photo `[n]` how far its features came, 1 - cosine, and whether the pretrained
    head says another class; None where the weights came without a head.
    """

    apart: Tensor
    changed: Tensor | None


MOST_PHOTOS = 1000  # more would only cost time: of 1000 a share is known to 3 points


class Forgetting:
    """Compares a net before and after training; costs a pass over the val photos each time.

    It keeps the pretrained head, and what the pretrained net says of these photos, but no second
    net. Weights, modes and random numbers are left as they were.

    Args:
        backbone: with the head it was pretrained with.
        schedule: where it trains the head alone, or the weights are random, nothing is measured.
    """

    def __init__(self, backbone: Backbone, schedule: Schedule) -> None:
        trained = [schedule.trained(phase, backbone) for phase in schedule.phases]
        thaws = any({*stages, *norms} - {"head"} for stages, norms in trained)
        self.backbone = backbone
        self.head = backbone.head if backbone.pretrained and thaws else None
        self.loader: DataLoader | None = None
        self.moved: Moved | None = None  # after training

    def before(self, data: PhotoFolder, device: torch.device) -> None:
        """Remember what the pretrained backbone makes of the photos; its head may be another."""
        if self.head is None or not data.splits["val"]:  # a model of all photos has none
            return
        photos = len(data.splits["val"])
        assert data.transforms is not None, "a backbone's transforms come first"
        self.device = device
        self.loader = DataLoader(
            PhotoDataset(data.root, data.splits["val"], data.transforms, white=data.white),
            batch_size=data.batch_size,
            sampler=[(0, i) for i in range(0, photos, math.ceil(photos / MOST_PHOTOS))],
            num_workers=data.workers,
            collate_fn=collate,
        )
        self.seen = self._look(self.head, self.loader)

    def after(self) -> dict[str, float]:
        """The change since `before`, for `metrics.json`; {} where nothing is measured.

        `drift/features` is 1 - cosine similarity of the head's inputs (mean), `drift/imagenet` the
        share of photos that the pretrained head now takes for another of its classes (absent where
        the weights came without a head).
        """
        if self.head is None or self.loader is None:
            return {}
        seen = self._look(self.head, self.loader)
        both = sorted(self.seen.keys() & seen.keys())  # a photo may have broken meanwhile
        if not both:
            return {}
        (before, expected), (features, answers) = (
            map(torch.stack, zip(*(look[i] for i in both), strict=True))
            for look in (self.seen, seen)
        )
        # |a - b|² / 2 = 1 - cosine for vectors of length 1, and exactly 0 where nothing changed.
        apart = F.normalize(features.double()) - F.normalize(before.double())
        moved = (apart.square().sum(dim=1) / 2).nan_to_num(nan=1.0)  # a net of NaN kept nothing
        changed = answers != expected if self.backbone.meta.get("head", True) else None
        self.moved = Moved(moved, changed)
        drift = {"drift/features": float(moved.mean()), "drift/images": len(answers)}
        if changed is not None:  # the head was pretrained as well
            drift["drift/imagenet"] = float(changed.double().mean())
        return drift

    def _look(self, head: torch.nn.Module, loader: DataLoader) -> dict[int, tuple[Tensor, Tensor]]:
        """Of each photo the head's inputs `[F]`, and the class that the pretrained head says `[]`.

        Photos that don't decode are passed over.
        """
        backbone, path = self.backbone, self.backbone.head_path
        own, home = backbone.head, next(backbone.parameters()).device
        modes = {module: module.training for module in backbone.modules()}
        features: list[Tensor] = []
        answers: list[Tensor] = []
        indices: list[int] = []
        hook = head.register_forward_pre_hook(
            lambda _, inputs: features.append(inputs[0].flatten(1).cpu())
        )
        try:
            backbone.net.set_submodule(path, head)  # what follows a Conv2d head is run as well
            backbone.eval().to(self.device)
            with torch.random.fork_rng(devices=[]), torch.inference_mode():  # loaders draw a seed
                for batch in loader:
                    if "image" not in batch:
                        continue
                    indices += batch["index"].tolist()
                    images = batch["image"].to(self.device, memory_format=backbone.memory_format)
                    answers.append(backbone(images).argmax(dim=1).cpu())
        finally:
            hook.remove()
            backbone.to(home)
            backbone.net.set_submodule(path, own)
            for module, mode in modes.items():
                module.training = mode
        looks = zip(torch.cat(features), torch.cat(answers), strict=True) if indices else ()
        return dict(zip(indices, looks, strict=True))
