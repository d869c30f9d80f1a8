"""Contextual attention: every patch of a feature map rebuilt from the patches outside the hole.

The released layer turns patches into convolution kernels, image by image. Here the same numbers
come from matrix products over the whole batch, in three steps, with N = (h / 2)(w / 2) places:

- *Match.* The inner product of two 3 x 3 patches is a sum of nine entries of the Gram matrix of
  pixels, those reached by moving both places by the same offset: a box filter along the joint
  diagonal of the four axes (row, column, row, column).
- *Propagate.* The same kind of sum, over neighbours in a line.
- *Paste.* Patches of 4 x 4 pixels laid with stride 2: each output pixel is met by at most four,
  and for each of the four parities of (row, column) that is one more matrix product.

The sums are linear and nearly all equal their own adjoint, so nothing of them is kept for the
backward pass: of the N x N matrices only two are, the raw similarities and the softmax.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from infill.models.deepfill.config import AttentionConfig
from infill.models.layers import at_least_float32

NORM_FLOOR = 1e-4
"""Smallest norm by which a similarity is divided."""
PATCH_OVERLAP = 4
"""Pasted patches that meet at a pixel away from the border."""

ROWS, COLUMNS = (1, 3), (2, 4)
"""The axes of a joint shift in a matrix seen as [B, h, w, h, w]."""


class Attention(NamedTuple):
    """Attention weights over a grid of h x w positions at half the feature map's size."""

    weights: Tensor
    """[B, N, N]: for each place (row) a softmax over all places."""
    valid: Tensor
    """[B, 1, N]: 1 where the patch of a place is free of the hole. Others are to be zeroed."""
    height: int
    width: int


class ContextualAttention(nn.Module):
    """Rebuild each place of a feature map from known ones (Sec. 4.1). Has no parameters."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Rebuild [B, C, h, w]; h and w even.

        Args:
            features: float16, bfloat16, float32 or float64.
            mask: [B, 1, s * h, s * w] for a whole number s, 1 in the hole.

        Returns:
            The rebuilt features, same shape, at least float32: logits reach thousands, of which
            half precision would keep the hundreds.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_float32(features)
            attention = attend(features, mask.to(features.dtype), self.config)
            rebuilt = pasted(attention, features)
            if self.config.overlap == "true_count":
                return rebuilt * (PATCH_OVERLAP / overlaps(rebuilt))
            return rebuilt

    @torch.no_grad()
    def most_attended(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return for each place the flat index of the one it looks at most: [B, h / 2, w / 2]."""
        with torch.autocast(features.device.type, enabled=False):
            features = at_least_float32(features)
            weights, valid, height, width = attend(features, mask.to(features.dtype), self.config)
            return (weights * valid).argmax(2).view(-1, height, width)


def attend(features: Tensor, mask: Tensor, config: AttentionConfig) -> Attention:
    """Compare every place with every other and turn similarities into weights (Sec. 4.1).

    Places whose patch touches the hole get the logit 0, not minus infinity, as released, and are
    zeroed by the user of the weights: a row sums to less than 1.
    """
    places = thinned(features, 2, config.downsample)
    height, width = places.shape[-2:]
    valid = free_of_hole(mask, features.shape[-2:], config)
    scores = similarities(places, config)
    if config.fuse:
        scores = propagated(scores, height, width, config.wrap)
    if config.masked == "neginf":
        # The lowest number, not infinity: without any valid place a row would be 0 / 0.
        lowest = torch.finfo(scores.dtype).min
        logits = (config.scale * scores).masked_fill(valid == 0, lowest)
    else:
        logits = scores * (config.scale * valid)
    return Attention(logits.softmax(2), valid, height, width)


def similarities(places: Tensor, config: AttentionConfig) -> Tensor:
    """Compare the 3 x 3 patches of [B, C, h, w] with each other: [B, N, N].

    Each inner product is divided by the norm of the background patch (the column), and for the
    cosine by that of the foreground patch too.
    """
    _, channels, height, width = places.shape
    pixels = places.permute(0, 2, 3, 1).flatten(1, 2)
    gram: Tensor = Gram.apply(pixels)  # type: ignore[no-untyped-call]
    products = joint_sum(gram, "box", height, width)
    squares = places.square().sum(1, keepdim=True)
    squares = functional.avg_pool2d(squares, 3, stride=1, padding=1, divisor_override=1)
    squares = squares.flatten(2)  # [B, 1, N]
    if config.norm_floor == "added":
        scales = (squares + 9 * channels * NORM_FLOOR).rsqrt()
    else:
        # The floor under the square, as the slope of a root is infinite at zero.
        scales = squares.clamp_min(NORM_FLOOR**2).rsqrt()
    scores = products * scales
    return scores * scales.mT if config.normalize == "both" else scores


def propagated(scores: Tensor, height: int, width: int, wrap: bool) -> Tensor:
    """Add to each match those one place further left and right, then above and below.

    With ``wrap`` the places count as one line, row after row, then column after column.
    """
    if not wrap:
        return joint_sum(scores, "box", height, width)
    scores = joint_sum(scores, "along rows", height, width)
    return joint_sum(scores, "along columns", height, width)


def free_of_hole(mask: Tensor, size: torch.Size, config: AttentionConfig) -> Tensor:
    """Return [B, 1, N]: 1 where a position's 3 x 3 patch is wholly known, 0 elsewhere.

    Args:
        mask: [B, 1, s * h, s * w], 1 in the hole.
        size: h and w of the feature map.
        config: how to thin out: in two steps, to the feature map and to half of that.
    """
    factor = mask.shape[-1] // size[1]
    if config.mask_pool == "max":
        mask = functional.max_pool2d(mask, 2 * factor)
    else:
        mask = thinned(thinned(mask, factor, config.downsample), 2, config.downsample)
    touched = functional.max_pool2d(mask, 3, stride=1, padding=1)
    return (touched == 0).to(mask.dtype).flatten(2)


def thinned(features: Tensor, factor: int, rule: str) -> Tensor:
    """Keep one value of ``factor`` in each direction: [B, C, h / factor, w / factor]."""
    if rule == "stride" or factor == 1:
        return features[..., ::factor, ::factor]
    for axis in (-2, -1):
        indices = corner_to_corner(features.shape[axis], factor, features.device)
        features = features.index_select(axis, indices)
    return features


def corner_to_corner(size: int, factor: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the source indices that spread over 0 .. size - 1, rounded, halves up."""
    count = size // factor
    gaps = max(count - 1, 1)
    doubled = 2 * (size - 1) * torch.arange(count, device=device)
    return (doubled + gaps).div(2 * gaps, rounding_mode="floor")


def overlaps(image: Tensor) -> Tensor:
    """Return how many pasted patches meet at each pixel, [h, w]: 4, at edges 2, in corners 1."""
    height, width = image.shape[-2:]
    down = functional.pad(image.new_full((height - 2,), 2.0), (1, 1), value=1.0)
    across = functional.pad(image.new_full((width - 2,), 2.0), (1, 1), value=1.0)
    return down[:, None] * across


def joint_sum(scores: Tensor, kind: str, height: int, width: int) -> Tensor:
    """Add to each entry of [B, N, N] its neighbours, both places moved alike.

    Args:
        scores: over height x width places.
        kind: "box", the 3 x 3 neighbourhood, zero outside; "along rows" and "along columns", the
            places before and after in the one line that rows, or columns, form end to end.
        height: rows of places.
        width: columns of places.
    """
    summed: Tensor = JointSum.apply(scores, kind, height, width)  # type: ignore[no-untyped-call]
    return summed


def pasted(attention: Attention, features: Tensor) -> Tensor:
    """Lay the 4 x 4 patches of [B, C, 2h, 2w], mixed by the attention, and average."""
    image: Tensor = Paste.apply(  # type: ignore[no-untyped-call]
        attention.weights, attention.valid, features, attention.height, attention.width
    )
    return image


class Gram(torch.autograd.Function):
    """The inner products of all pairs of rows of [B, N, C]: [B, N, N].

    Both factors being the same, its gradient is one product instead of two; and it is taken in
    full precision, even where backward() is called under autocast.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        """Multiply by the own transpose, exactly though faster products be allowed elsewhere."""
        ctx.save_for_backward(pixels)
        if torch.backends.cuda.matmul.allow_tf32:
            # Its ten bits of mantissa would be several units of a logit.
            exact = pixels.double()
            return (exact @ exact.mT).to(pixels.dtype)
        return pixels @ pixels.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient by the rows."""
        (pixels,) = ctx.saved_tensors
        with torch.autocast(pixels.device.type, enabled=False):
            gradient: Tensor = (gradients[0] + gradients[0].mT) @ pixels
        return gradient


class JointSum(torch.autograd.Function):
    """The sums of :func:`joint_sum`: each is its own adjoint, so backward is the same sum."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, kind: str, height: int, width: int) -> Tensor:
        """Sum; nothing is kept."""
        ctx.kind, ctx.height, ctx.width = kind, height, width
        if kind == "along rows":
            return along_rows(scores)
        table = scores.view(-1, height, width, height, width)
        if kind == "along columns":
            return along_columns(table).view_as(scores)
        for axes in (ROWS, COLUMNS):
            summed = table.clone()
            add_moved(summed, table, axes, 1)
            add_moved(summed, table, axes, -1)
            table = summed
        return table.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sum the gradient likewise."""
        gradient = gradients[0].contiguous()
        return joint_sum(gradient, ctx.kind, ctx.height, ctx.width), None, None, None


def along_rows(scores: Tensor) -> Tensor:
    """Sum [B, N, N] over both places moved by -1, 0, 1 along the rows put end to end."""
    summed = scores.clone()
    add_moved(summed, scores, (1, 2), 1)
    add_moved(summed, scores, (1, 2), -1)
    return summed


def along_columns(table: Tensor) -> Tensor:
    """Sum [B, h, w, h, w] over both places moved by -1, 0, 1 along the columns put end to end.

    A step along a column stays in it, or leaves it at the bottom and enters the next at the top;
    each of the two places does either, hence four blocks, all but the first of them thin.
    """
    height, width = table.shape[1:3]
    summed = table.clone()
    inner = (slice(0, height - 1), slice(0, width)), (slice(1, height), slice(0, width))
    outer = (slice(height - 1, height), slice(0, width - 1)), (slice(0, 1), slice(1, width))
    for here, after in (inner, outer):
        for there, after_there in (inner, outer):
            first = (slice(None), *here, *there)
            second = (slice(None), *after, *after_there)
            summed[first] += table[second]
            summed[second] += table[first]
    return summed


def add_moved(target: Tensor, source: Tensor, axes: tuple[int, int], step: int) -> None:
    """Add the source, moved by ``step`` (1 or -1) along both axes, to the target in place."""
    for axis in axes:
        size = target.shape[axis] - 1
        target = target.narrow(axis, 1 if step > 0 else 0, size)
        source = source.narrow(axis, 0 if step > 0 else 1, size)
    target += source


class Paste(torch.autograd.Function):
    """Lay 4 x 4 patches of the features with stride 2, mixed by the attention, and average.

    A pixel of parity a in rows is met by the patches of its own place and of the one above
    (a = 0) or below (a = 1); columns likewise. Summing the attention over these first leaves one
    product per parity. The sums are made again in the backward pass instead of being kept.
    """

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, valid: Tensor, features: Tensor, height: int, width: int
    ) -> Tensor:
        """Paste [B, C, 2h, 2w] by weights [B, N, N], of which invalid columns count as 0."""
        ctx.save_for_backward(weights, valid, features)
        ctx.height, ctx.width = height, width
        image = torch.empty_like(features)
        table = _table(weights, valid, height, width)
        for down in (0, 1):
            lines = _met(table, ROWS, 1 - 2 * down)
            for right in (0, 1):
                met = _met(lines, COLUMNS, 1 - 2 * right).view_as(weights)
                pixels = _parity(features, down, right)
                _write_parity(image, down, right, met @ pixels)
        return image.div_(PATCH_OVERLAP)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the weights and the features."""
        weights, valid, features = ctx.saved_tensors
        height, width = ctx.height, ctx.width
        gradient = gradients[0] / PATCH_OVERLAP
        to_features = torch.empty_like(features)
        table = _table(weights, valid, height, width)
        to_table = torch.zeros_like(table)
        # Called under the autocast of the caller of backward().
        with torch.autocast(features.device.type, enabled=False):
            for down in (0, 1):
                lines = _met(table, ROWS, 1 - 2 * down)
                to_lines = torch.zeros_like(table)
                for right in (0, 1):
                    asked = _parity(gradient, down, right)
                    met = _met(lines, COLUMNS, 1 - 2 * right).view_as(weights)
                    _write_parity(to_features, down, right, met.mT @ asked)
                    del met
                    to_met = asked @ _parity(features, down, right).mT
                    to_lines += _met(to_met.view_as(table), COLUMNS, 2 * right - 1)
                to_table += _met(to_lines, ROWS, 2 * down - 1)
        return to_table.view_as(weights) * valid, None, to_features, None, None


def _table(weights: Tensor, valid: Tensor, height: int, width: int) -> Tensor:
    return (weights * valid).view(-1, height, width, height, width)


def _met(table: Tensor, axes: tuple[int, int], step: int) -> Tensor:
    """Return the table plus itself moved along both axes."""
    summed = table.clone()
    add_moved(summed, table, axes, step)
    return summed


def _parity(features: Tensor, down: int, right: int) -> Tensor:
    """Return every second pixel as [B, N, C]."""
    return features[..., down::2, right::2].permute(0, 2, 3, 1).flatten(1, 2)


def _write_parity(features: Tensor, down: int, right: int, pixels: Tensor) -> None:
    """Write [B, N, C] into every second pixel of [B, C, 2h, 2w]."""
    place = features[..., down::2, right::2]
    place.copy_(pixels.mT.reshape(place.shape))
