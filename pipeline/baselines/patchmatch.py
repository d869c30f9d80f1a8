"""PatchMatch: fill a hole with patches of the known pixels, from coarse to fine.

The search is that of Barnes et al., "PatchMatch" (SIGGRAPH 2009): a random nearest-neighbour field
that improves by propagation and by random search. The completion around it is that of Wexler et
al., "Space-Time Completion of Video" (PAMI 2007): every patch that touches the hole votes for the
colours of its nearest known patch; search and vote alternate, level by level.

This is our own implementation in NumPy: all patches move at once rather than in scan order, so that
propagation is an array operation; the papers propagate pixel by pixel. Its random numbers have one
fixed seed.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from infill.pipeline.images import ByteHole, Pixels

Colours = NDArray[np.float32]
Index = NDArray[np.int64]

SIDE = 7
"""Side of a patch in pixels, as in both papers."""
REACH = SIDE // 2
SEARCHES = 2
"""Rounds of propagation and random search before each vote."""
VOTES = (2, 4, 8)
"""Rounds of search and vote: at the finest level, at the next, at all coarser ones."""
DISTRUST = 1.3
"""Gamma of Wexler et al.: the factor by which confidence falls per pixel of depth in the hole."""
LEAST_SIDE = 2 * SIDE
"""Minimum side of a level."""


@dataclass
class Field:
    """The nearest known patch of each patch that touches the hole."""

    shape: tuple[int, int]
    targets: Index
    """Flat positions of the centres of the patches that touch the hole, [N]."""
    sources: Index
    """Flat positions of the centres of their nearest known patches, [N]."""
    costs: Colours
    """Sums of squared differences, [N]."""
    known: NDArray[np.bool_]
    """Flat: whether a patch centred there is wholly known, [H * W]."""
    trust: Colours
    """Weight of each target's vote, [N]: lower the deeper it lies in the hole."""
    positions: Index
    """Flat: index of the target centred there, or -1, [H * W]."""


def patchmatch(image: Pixels, hole: ByteHole) -> Pixels:
    """Fill the hole with known patches, coarse to fine.

    Args:
        image: uint8 [H, W, 3]; pixels inside the hole are ignored.
        hole: uint8 [H, W], 1 where missing.

    Returns:
        uint8 [H, W, 3]. If no patch of 7 x 7 px is wholly known, the result of diffusion.
    """
    if not hole.any():
        return image.copy()
    random = np.random.Generator(np.random.Philox(0))
    levels = _pyramid(image, hole)
    colours, coarse = _start(*levels[-1]), None
    for number, (known, missing) in reversed(list(enumerate(levels))):
        if number < len(levels) - 1:
            grown = cv2.resize(colours, missing.shape[::-1], interpolation=cv2.INTER_LINEAR)
            colours = np.where(missing[..., None], grown, known).astype(np.float32)
        field = _begin(missing, coarse, random)
        if field is None:
            continue
        if coarse is not None:
            # The enlarged colours are smooth and would match smooth patches only: before the
            # search, the inherited sources vote with their full detail.
            colours = _vote(field, colours, missing)
        for _ in range(VOTES[min(number, len(VOTES) - 1)]):
            _search(field, colours, random)
            colours = _vote(field, colours, missing)
        coarse = field
    filled = np.where(hole[..., None] != 0, np.rint(colours).clip(0, 255), image)
    return filled.astype(np.uint8)


def _pyramid(image: Pixels, hole: ByteHole) -> list[tuple[Colours, NDArray[np.bool_]]]:
    """Return colours and hole at full, half, quarter ... size, until the hole is a patch wide.

    A coarse pixel's colour is the mean of the known pixels below it alone.
    """
    missing = hole != 0
    colours = np.where(missing[..., None], 0, image).astype(np.float32)
    levels = [(colours, missing)]
    while min(missing.shape) >= 2 * LEAST_SIDE and _depths(missing).max() > REACH:
        height, width = (side // 2 for side in missing.shape)
        weight = cv2.resize(
            (~missing).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
        # Above the finest level, colours hold zeros in the hole: dividing leaves the known mean.
        missing = weight < 0.5
        colours = np.where(
            missing[..., None], 0, colours / np.maximum(weight, 1e-6)[..., None]
        ).astype(np.float32)
        levels.append((colours, missing))
    return levels


def _depths(missing: NDArray[np.bool_]) -> Colours:
    """Return each pixel's distance from the nearest known pixel, [H, W]."""
    distances: Colours = cv2.distanceTransform(missing.astype(np.uint8), cv2.DIST_L2, 3)
    return distances


def _start(colours: Colours, missing: NDArray[np.bool_]) -> Colours:
    """Fill the coarsest level by diffusion, so that the first search compares smooth colours."""
    known = colours[~missing]
    mean = known.mean(axis=0) if len(known) else np.full(3, 128)
    hidden = np.where(missing[..., None], mean, colours)
    pixels = np.rint(hidden).clip(0, 255).astype(np.uint8)
    filled = cv2.inpaint(pixels, missing.astype(np.uint8), REACH, cv2.INPAINT_NS)
    return np.where(missing[..., None], filled, colours).astype(np.float32)


def _begin(
    missing: NDArray[np.bool_], coarse: Field | None, random: np.random.Generator
) -> Field | None:
    """Return the field to start a level from, or None if no patch is wholly known."""
    height, width = missing.shape
    inside = np.zeros_like(missing)
    inside[REACH : height - REACH, REACH : width - REACH] = True
    window = np.ones((SIDE, SIDE), np.uint8)
    touched = cv2.dilate(missing.astype(np.uint8), window) != 0
    targets = np.flatnonzero(touched & inside)
    known = (~touched & inside).ravel()
    choices = np.flatnonzero(known)
    if not len(choices) or not len(targets):
        return None
    positions = np.full(height * width, -1)
    positions[targets] = np.arange(len(targets))
    sources = random.choice(choices, len(targets))
    if coarse is not None:
        inherited = _inherited(coarse, targets, (height, width))
        good = (inherited >= 0) & known[np.maximum(inherited, 0)]
        sources = np.where(good, inherited, sources)
    costs = np.zeros(len(targets), np.float32)
    return Field(
        shape=(height, width),
        targets=targets,
        sources=sources,
        costs=costs,
        known=known,
        trust=(DISTRUST ** -_depths(missing).ravel()[targets]).astype(np.float32),
        positions=positions,
    )


def _inherited(coarse: Field, targets: Index, shape: tuple[int, int]) -> Index:
    """Return each target's source from the coarser level, scaled by two; -1 if unknown."""
    rows, columns = np.divmod(targets, shape[1])
    above = np.minimum(rows // 2, coarse.shape[0] - 1) * coarse.shape[1]
    above += np.minimum(columns // 2, coarse.shape[1] - 1)
    position = coarse.positions[above]
    row, column = np.divmod(coarse.sources[np.maximum(position, 0)], coarse.shape[1])
    row, column = 2 * row + rows % 2, 2 * column + columns % 2
    fits = (position >= 0) & (row < shape[0]) & (column < shape[1])
    return np.where(fits, row * shape[1] + column, -1)


def _search(field: Field, colours: Colours, random: np.random.Generator) -> None:
    """Improve every patch's source by propagation and random search, in place."""
    field.costs = _costs(field, colours, field.sources)  # The colours have changed since.
    height, width = field.shape
    for _ in range(SEARCHES):
        for row, column in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            # A neighbour's source, shifted back by the neighbour's offset.
            step = row * width + column
            position = field.positions[field.targets + step]
            _improve(field, colours, np.where(position >= 0, field.sources[position] - step, -1))
        reach = max(height, width)
        while reach >= 1:
            rows, columns = np.divmod(field.sources, width)
            rows = rows + random.integers(-reach, reach + 1, len(rows))
            columns = columns + random.integers(-reach, reach + 1, len(columns))
            fits = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            _improve(field, colours, np.where(fits, rows * width + columns, -1))
            reach //= 2


def _improve(field: Field, colours: Colours, candidates: Index) -> None:
    """Take the candidates that are known patches and nearer than the target's source."""
    good = (candidates >= 0) & field.known[np.maximum(candidates, 0)]
    chosen = np.flatnonzero(good)
    if not len(chosen):
        return
    costs = _costs(field, colours, candidates[chosen], field.targets[chosen])
    better = costs < field.costs[chosen]
    field.sources[chosen[better]] = candidates[chosen[better]]
    field.costs[chosen[better]] = costs[better]


def _costs(field: Field, colours: Colours, sources: Index, targets: Index | None = None) -> Colours:
    """Return the sums of squared differences between patches, [N]."""
    targets = field.targets if targets is None else targets
    flat = colours.reshape(-1, 3)
    total = np.zeros(len(sources), np.float32)
    for offset in _offsets(field.shape[1]):
        difference = flat[targets + offset] - flat[sources + offset]
        total += np.einsum("nc,nc->n", difference, difference)
    return total


def _vote(field: Field, colours: Colours, missing: NDArray[np.bool_]) -> Colours:
    """Return colours whose hole is the mean of the proposals of all patches over it.

    Better matches count more, by exp(-cost / 2 sigma^2) with sigma^2 the costs' 75th percentile,
    and so do patches nearer to known pixels, by 1.3^-distance (Wexler et al., Sec. 3.2).
    """
    spread = max(float(np.percentile(field.costs, 75)), 1e-6)
    weights = field.trust * np.exp(-field.costs / (2 * spread)) + 1e-9
    flat = colours.reshape(-1, 3)
    sums, totals = np.zeros_like(flat), np.zeros(len(flat), np.float32)
    for offset in _offsets(field.shape[1]):
        # Within one offset no two targets meet at a pixel: plain addition is enough.
        sums[field.targets + offset] += weights[:, None] * flat[field.sources + offset]
        totals[field.targets + offset] += weights
    voted = missing.ravel() & (totals > 0)
    result = flat.copy()
    result[voted] = sums[voted] / totals[voted, None]
    return result.reshape(colours.shape)


def _offsets(width: int) -> list[int]:
    """Return the flat distance from a patch's centre to each of its pixels."""
    reach = range(-REACH, REACH + 1)
    return [row * width + column for row in reach for column in reach]
