"""Large pictures as many small ones: every so-manieth pixel, not a crop (Sec. 4.1)."""

from torch import Tensor


def subsampled(picture: Tensor, rows: int, columns: int) -> Tensor:
    """Split pictures into pieces, each of every ``rows``-th row and ``columns``-th column.

    Args:
        picture: [B, C, H, W], H a multiple of ``rows`` and W of ``columns``.
        rows: V in the released code.
        columns: U in the released code.

    Returns:
        [U * V * B, C, H / V, W / U]; the offset in columns outermost, then that in rows.

    Raises:
        ValueError: if a side is no multiple.
    """
    batch, channels, height, width = picture.shape
    if height % rows or width % columns:
        raise ValueError(
            f"{height} x {width} px cannot be split into {rows} x {columns} pieces: "
            "the sides must be multiples"
        )
    grid = picture.view(batch, channels, height // rows, rows, width // columns, columns)
    pieces = grid.permute(5, 3, 0, 1, 2, 4)
    return pieces.reshape(-1, channels, height // rows, width // columns)


def interleaved(pieces: Tensor, rows: int, columns: int) -> Tensor:
    """Put pieces together again: :func:`subsampled` backwards."""
    count, channels, height, width = pieces.shape
    batch = count // (rows * columns)
    grid = pieces.view(columns, rows, batch, channels, height, width)
    whole = grid.permute(2, 3, 4, 1, 5, 0)
    return whole.reshape(batch, channels, height * rows, width * columns)
