"""How alike two photos are where they overlap: thumbnails are laid over each other, then compared.

A copy may be cropped, scaled, framed, turned, mirrored, brighter or compressed. Laying one over the
other undoes all but the last two, and correlation ignores brightness and contrast. Two photos of
one scene can't be laid over each other: what is near moves against what is far.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SIZES = (16, 32)  # pixels of the side, from coarse to fine
STEPS = 6  # at each size
DAMPING = 1e-2
OVERLAP = 0.6  # share of the pixels that a comparison is about, at least
FLAT = 4.0  # deviation of grey below which there is nothing to compare
PAIRS = 512  # at once


def turned(images: Tensor, way: int) -> Tensor:
    """Square images `[…, S, S]` in one of their 8 ways: quarter turns, and from 4 on mirrored."""
    return torch.rot90(images.flip(-1) if way >= 4 else images, way % 4, (-2, -1))


def aligned_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Correlation `[P]` of thumbnails `[P, S, S]` after an affine map of the other onto the one.

    As in Evangelidis & Psarakis 2008 ("Parametric image alignment using enhanced correlation
    coefficient maximization"): Gauss-Newton steps from the identity, from coarse to fine.
    """
    parts = [
        _aligned(a.float(), b.float())
        for a, b in zip(one.split(PAIRS), other.split(PAIRS), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def _aligned(one: Tensor, other: Tensor) -> Tensor:
    theta = torch.eye(2, 3).repeat(len(one), 1, 1)
    best = torch.full((len(one),), -1.0)
    for size in SIZES:
        a, b = (F.adaptive_avg_pool2d(x[:, None], size) for x in (one, other))
        across = (b[..., 2:] - b[..., :-2]) * size / 4  # slopes a unit of grid_sample's -1 … 1
        down = (b[..., 2:, :] - b[..., :-2, :]) * size / 4
        layers = torch.cat((b, F.pad(across, (1, 1)), F.pad(down, (0, 0, 1, 1))), dim=1)
        axis = (torch.arange(size) + 0.5) * 2 / size - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        spot = torch.stack((x, y, torch.ones_like(x)), dim=-1).reshape(-1, 3)  # [S², 3]
        for step in range(STEPS + 1):
            place = spot @ theta.transpose(1, 2)  # [P, S², 2]
            grid = place.reshape(-1, size, size, 2)
            seen = F.grid_sample(layers, grid, padding_mode="border", align_corners=False)
            moved, slopes = seen[:, 0].flatten(1), seen[:, 1:].flatten(2)
            inside = (place.abs() <= 1).all(dim=-1).float()
            still, still_deviation = _normal(a.flatten(1), inside)
            moved, deviation = _normal(moved, inside)
            shared = inside.sum(dim=1)
            found = (still * moved).sum(dim=1) / shared.clamp(min=1)
            flat = (still_deviation < FLAT) | (deviation < FLAT)
            found = found.masked_fill(flat | (shared < OVERLAP * size**2), -1.0)
            if size == SIZES[-1]:
                best = torch.maximum(best, found)
            if step == STEPS:
                break
            slopes = slopes * (inside / deviation[:, None].clamp(min=FLAT))[:, None]
            jacobian = (slopes[:, :, :, None] * spot).transpose(1, 2).flatten(2)  # [P, S², 6]
            normal = jacobian.transpose(1, 2) @ jacobian
            ridge = DAMPING * normal.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
            normal = normal + ridge[:, None, None] * torch.eye(6)
            right = jacobian.transpose(1, 2) @ ((still - moved) * inside)[:, :, None]
            theta = theta + torch.linalg.solve(normal, right).reshape(-1, 2, 3)
    return best


def _normal(pixels: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels `[P, N]` with mean 0 and deviation 1 inside, 0 outside; and that deviation `[P]`."""
    count = inside.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (pixels * inside).sum(dim=1, keepdim=True) / count
    centred = (pixels - mean) * inside
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=1e-6), deviation[:, 0]
