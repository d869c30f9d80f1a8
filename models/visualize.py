"""Tensors inside a network as images: heat maps, labels, tiles."""

from collections.abc import Sequence

import torch
from torch import Tensor

LABEL_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (60, 60, 60),
)
"""Okabe and Ito's colours, which are distinguishable with any colour vision."""
ROUNDS = 20
"""Maximum number of iterations of Lloyd's algorithm, as in the released code of SPN."""
STARTS = 10
"""As in the released code of SPN."""


def heat(values: Tensor) -> Tensor:
    """Colour [h, w] from black over red and yellow to white, its greatest value white.

    Returns:
        [1, 3, h, w] float32 in [-1, 1]; all black if nothing is above 0.
    """
    share = values.float().clamp_min(0)
    share = share / share.max().clamp_min(torch.finfo(torch.float32).tiny)
    channels = torch.stack([(share * 3 - index).clamp(0, 1) for index in range(3)])
    return (channels * 2 - 1)[None]


def labelled(labels: Tensor) -> Tensor:
    """Colour [h, w] of whole numbers 0 to 7: [1, 3, h, w] float32 in [-1, 1]."""
    table = torch.tensor(LABEL_COLOURS, device=labels.device) / 127.5 - 1.0
    return table[labels].permute(2, 0, 1)[None]


def clustered(features: Tensor, count: int = 8) -> Tensor:
    """Group the places of a map by their features: k-means by Lloyd, the best of several starts.

    Starts have their own seeds (k-means++), so the same map always gives the same groups.

    Args:
        features: [C, h, w].
        count: of groups at most.

    Returns:
        The group of each place, [h, w], 0 to count - 1; the largest group is 0.
    """
    places = features.flatten(1).T.double()
    runs = [lloyd(places, spread_places(places, count, seed)) for seed in range(STARTS)]
    labels, _ = min(runs, key=lambda run: run[1])
    order = torch.bincount(labels, minlength=count).argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank[labels].view(features.shape[1:])


def lloyd(places: Tensor, centres: Tensor) -> tuple[Tensor, float]:
    """Move centres [K, C] to the means of the nearest of [N, C] rows until nothing changes.

    Returns:
        The nearest centre of each row, [N], and the mean squared distance to it.
    """
    labels = torch.cdist(places, centres).argmin(1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, labels, places)
        sizes = torch.bincount(labels, minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        moved = torch.cdist(places, centres).argmin(1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels, float((places - centres[labels]).square().sum(1).mean())


def spread_places(places: Tensor, count: int, seed: int) -> Tensor:
    """Sample up to ``count`` of [N, C] rows, each the likelier the farther from those before it."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(places), (1,), generator=generator, device="cpu"))]
    squares = torch.cdist(places, places[chosen])[:, 0].square()
    while len(chosen) < count and squares.max() > 0:
        mark = torch.rand(1, generator=generator, dtype=torch.float64, device="cpu")
        mark = mark.to(squares) * squares.sum()
        chosen.append(int((squares.cumsum(0) < mark).sum().clamp_max(len(places) - 1)))
        nearest = torch.cdist(places, places[chosen[-1:]])[:, 0].square()
        squares = torch.minimum(squares, nearest)
    return places[chosen]


def tiles(images: Sequence[Tensor], columns: int, cell_px: int) -> Tensor:
    """Lay equally large images [3, h, w] out row by row, enlarged, a pixel of black between.

    Returns:
        [1, 3, H, W] in the range of the images.
    """
    enlarged = [p.repeat_interleave(cell_px, 1).repeat_interleave(cell_px, 2) for p in images]
    height, width = (side + 1 for side in enlarged[0].shape[1:])
    rows = -(-len(enlarged) // columns)
    sheet = enlarged[0].new_full((1, 3, rows * height - 1, columns * width - 1), -1.0)
    for index, one in enumerate(enlarged):
        top, left = index // columns * height, index % columns * width
        sheet[0, :, top : top + height - 1, left : left + width - 1] = one
    return sheet


def middle_of(mask: Tensor) -> tuple[float, float]:
    """Return the hole pixel nearest to the hole's centre, as shares of height and width.

    Args:
        mask: [1, 1, H, W], 1 in the hole; the frame's own middle is returned if it is empty.
    """
    height, width = mask.shape[-2:]
    places = mask[0, 0].nonzero()
    if not len(places):
        return 0.5, 0.5
    centre = places.double().mean(0)
    row, column = places[(places - centre).square().sum(1).argmin()].tolist()
    return (row + 0.5) / height, (column + 0.5) / width
