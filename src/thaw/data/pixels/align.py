"""How alike two photos are where they overlap: one is laid over the other, edges are compared.

A copy may be cropped, scaled, framed, tilted, brighter or compressed. Laying it over the other
undoes most of that, and what correlates are edges, so a large bright patch in both says nothing.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 6  # at each size
RIDGE = 1e-2  # of the Gauss-Newton steps, in units of the mean curvature
OVERLAP = 0.6  # share of the pixels that a comparison is about, at least
FLAT = 3.0  # of 255: rows that vary by no more are a frame, if they lie at the border
FAINT = 4.0  # deviation of grey, of 255, below which contrast isn't raised to 1


def turned(images: Tensor, way: int) -> Tensor:
    """Square images `[…, S, S]` in one of their 8 ways: quarter turns, and from 4 on mirrored."""
    return torch.rot90(images.flip(-1) if way >= 4 else images, way % 4, (-2, -1))


def unturned(images: Tensor, way: int) -> Tensor:
    """What `turned` makes this way these images of."""
    return turned(images, way if way >= 4 else -way % 4)


def unframed(images: Tensor) -> Tensor:
    """Grey images `[N, S, S]`, from 0 to 255, without bars or a frame of one grey at their border.

    Two photos in the same frame have its edges in common, and a photo lacks those of its framed
    copy. What is within is scaled to the full size. Images that are flat stay as they are.
    """
    size, found = images.shape[-1], images.float()
    top, left = _bar(found), _bar(found.transpose(1, 2))
    bottom, right = size - _bar(found.flip(1)), size - _bar(found.transpose(1, 2).flip(1))
    tall, wide = bottom - top, right - left
    framed = ((tall < size) | (wide < size)) & (torch.minimum(tall, wide) >= size // 4)
    if not framed.any():
        return found
    scales, shifts = torch.stack((wide, tall), dim=1), torch.stack((left, top), dim=1)
    middles = (2 * shifts + scales) / size - 1
    theta = torch.cat((torch.diag_embed(scales / size), middles[:, :, None]), dim=2)[framed]
    whole, grid = found[framed][:, None], _grid(theta, size)
    found[framed] = F.grid_sample(whole, grid, padding_mode="border", align_corners=False)[:, 0]
    return found


def _bar(images: Tensor) -> Tensor:
    """How many rows at the top are one grey, and one more that may be cut through `[N]`."""
    high, low = images.amax(dim=2), images.amin(dim=2)
    flat = (high - low[:, :1] <= FLAT) & (high[:, :1] - low <= FLAT)
    rows = flat.cumprod(dim=1).sum(dim=1)
    return rows + (rows > 0).long()


def tangents(images: Tensor) -> Tensor:
    """What small affine maps change in square images `[N, S, S]`: orthonormal `[N, S², 7]`.

    An image, and its slopes times 1, x and y, span what it looks like when it is moved, scaled,
    tilted or made brighter by a little (Simard, LeCun & Denker 1993, "tangent distance").
    """
    across = F.pad(images[..., 2:] - images[..., :-2], (1, 1))
    down = F.pad(images[..., 2:, :] - images[..., :-2, :], (0, 0, 1, 1))
    size = images.shape[-1]
    y, x = _axes(size)
    slopes = [slope * by for slope in (across, down) for by in (torch.ones(()), x, y)]
    span = torch.stack((images, *slopes), dim=1).flatten(2)
    span = span - span.mean(dim=2, keepdim=True)
    return torch.linalg.qr(F.normalize(span, dim=2).transpose(1, 2)).Q


def lay_over(
    one: Tensor, other: Tensor, size: int, theta: Tensor | None = None, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """The affine maps `[P, 2, 3]`, as `affine_grid` takes them, that lay other over one.

    And how the two then correlate `[P]`.

    Gauss-Newton steps that raise the correlation of the two, as in Evangelidis & Psarakis 2008
    ("Parametric image alignment using enhanced correlation coefficient maximization").

    Args:
        one: grey `[P, S, S]`, from 0 to 255; so is other.
        size: of the images that are compared, in pixels.
        theta: where to begin; by default from the identity.
        steps: at most so many.
    """
    still, moved = (F.adaptive_avg_pool2d(x[:, None], size) for x in (one, other))
    across = F.pad(moved[..., 2:] - moved[..., :-2], (1, 1)) * size / 4
    down = F.pad(moved[..., 2:, :] - moved[..., :-2, :], (0, 0, 1, 1)) * size / 4
    layers, still = torch.cat((moved, across, down), dim=1), still.flatten(1)
    y, x = _axes(size)
    spots = torch.stack((x, y, torch.ones_like(x))).flatten(1)  # [3, S²]
    here = torch.eye(2, 3).repeat(len(one), 1, 1) if theta is None else theta
    best, value = here, torch.full((len(one),), -1.0)
    for step in range(steps + 1):
        grid = _grid(here, size)
        seen = F.grid_sample(layers, grid, padding_mode="border", align_corners=False)
        inside = _inside(grid).flatten(1)
        a, _ = _normal(still, inside)
        b, contrast = _normal(seen[:, 0].flatten(1), inside)
        shared = inside.sum(dim=1)
        found = ((a * b).sum(dim=1) / shared.clamp(min=1)).masked_fill(
            shared < OVERLAP * size**2, -1.0
        )
        better = found > value
        value = torch.where(better, found, value)
        best = torch.where(better[:, None, None], here, best)
        if step == steps:
            break
        slopes = seen[:, 1:].flatten(2) * (inside / contrast[:, None])[:, None]  # [P, 2, S²]
        jacobian = (slopes[:, :, None] * spots).flatten(1, 2)  # [P, 6, S²]
        curvature = jacobian @ jacobian.transpose(1, 2)
        ridge = RIDGE * curvature.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-6
        curvature = curvature + ridge[:, None, None] * torch.eye(6)
        towards = jacobian @ ((a - b) * inside)[:, :, None]
        here = here + torch.linalg.solve(curvature, towards).reshape(-1, 2, 3)
    return best, value


def _axes(size: int) -> tuple[Tensor, ...]:
    """How far down and across each pixel is `[S, S]`, from -1 to 1."""
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    return torch.meshgrid(axis, axis, indexing="ij")


def _grid(theta: Tensor, size: int) -> Tensor:
    """`F.affine_grid(theta, …)` `[P, S, S, 2]`, which is far slower for many small images."""
    y, x = _axes(size)
    right, down, shift = theta[:, None, None].unbind(dim=-1)  # [P, 1, 1, 2] each
    return x[..., None] * right + (y[..., None] * down + shift)


def _inside(grid: Tensor) -> Tensor:
    """1 where a grid reads within the image, else 0 `[P, S, S]`."""
    across, down = grid.abs().unbind(dim=-1)
    return torch.maximum(across, down).le(1).float()


def _normal(pixels: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels `[P, N]` with mean 0 and deviation 1 inside, 0 outside; and their contrast `[P]`."""
    count = inside.sum(dim=1, keepdim=True).clamp(min=1)
    centred = (pixels - (pixels * inside).sum(dim=1, keepdim=True) / count) * inside
    contrast = (centred.square().sum(dim=1, keepdim=True) / count).sqrt().clamp(min=FAINT)
    return centred / contrast, contrast[:, 0]


def edges_alike(one: Tensor, other: Tensor, theta: Tensor, size: int) -> Tensor:
    """Correlation `[P]` of the slopes of two photos, laid over each other, at this size."""
    grid = _grid(theta, one.shape[-1])
    laid = F.grid_sample(other[:, None], grid, padding_mode="border", align_corners=False)
    inside = _inside(grid)[:, None]
    a, b, inside = (F.adaptive_avg_pool2d(x, size) for x in (one[:, None], laid, inside))
    # A slope counts where both pixels that it is between, and their neighbours, are inside.
    shared = 1 - F.max_pool2d(1 - (inside > 0.99).float(), 3, stride=1, padding=0)
    rise_a, rise_b = (_slopes(x) * shared for x in (a, b))
    norms = rise_a.square().sum(dim=(1, 2, 3)) * rise_b.square().sum(dim=(1, 2, 3))
    alike = (rise_a * rise_b).sum(dim=(1, 2, 3)) / norms.sqrt().clamp(min=1e-6)
    return alike.masked_fill(shared.mean(dim=(1, 2, 3)) < 0.8 * OVERLAP, 0.0)


def sticks_out(theta: Tensor) -> Tensor:
    """By how much of half a side each photo sticks out of the other at least `[P]`.

    Of a photo and a part of it the part lies inside: 0. Of two photos of one scene each shows
    something that the other doesn't.
    """
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    last = torch.tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    back = torch.linalg.pinv(torch.cat((theta, last), dim=1))[:, :2]
    ways = [(corners @ way.transpose(1, 2)).abs().amax(dim=(1, 2)) for way in (theta, back)]
    return (torch.minimum(*ways) - 1).clamp(min=0)


def _slopes(images: Tensor) -> Tensor:
    """Differences of neighbours across and down `[P, 2, S - 2, S - 2]` of `[P, 1, S, S]`."""
    across = images[..., 1:-1, 2:] - images[..., 1:-1, :-2]
    down = images[..., 2:, 1:-1] - images[..., :-2, 1:-1]
    return torch.cat((across, down), dim=1)
