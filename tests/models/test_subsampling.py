import numpy as np
import pytest
import torch
from torch.nn import functional

from infill.models.config import Subsampling
from infill.models.subsampling import fill_in_pieces, merge, split


@pytest.mark.parametrize(("down", "across"), [(1, 1), (2, 3), (4, 4)])
def test_pieces_are_strided_views_and_merge_to_the_frame(down, across):
    frame = torch.rand(1, 3, 8 * down, 8 * across)
    pieces = split(frame, down, across)
    assert pieces.shape == (down * across, 3, 8, 8)
    for v in range(down):
        for u in range(across):
            torch.testing.assert_close(
                pieces[v * across + u], frame[0, :, v::down, u::across], rtol=0, atol=0
            )
    torch.testing.assert_close(merge(pieces, down, across), frame, rtol=0, atol=0)


def half_frame(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a smooth picture and a hole in its middle."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij"
    )
    image = torch.stack([rows, columns, rows * columns])[None] * 0.8
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    return image, mask


def test_network_sees_pieces_of_its_size_a_few_at_a_time():
    image, mask = half_frame(128)
    seen = []

    def fill(image, mask):
        seen.append((image, mask))
        return image

    fill_in_pieces(fill, image, mask, Subsampling(side_px=32), at_once=6)
    assert [len(few) for few, _ in seen] == [6, 6, 4]
    hidden = image * (1 - mask)
    torch.testing.assert_close(seen[0][0][1:2], hidden[..., 0::4, 1::4], rtol=0, atol=0)
    torch.testing.assert_close(seen[0][1][4:5], mask[..., 1::4, 0::4], rtol=0, atol=0)


def test_what_each_piece_predicts_goes_where_its_pixels_came_from():
    image, mask = half_frame(64)
    truth = split(image, 2, 2)
    calls = []

    def perfect(few, _):
        calls.append(len(few))
        start = sum(calls[:-1])
        return truth[start : start + len(few)]

    found = fill_in_pieces(perfect, image, mask, Subsampling(side_px=32), at_once=3)
    torch.testing.assert_close(found, image, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "working"), [((70, 90), (64, 96)), ((20, 20), (32, 32)), ((47, 49), (32, 64))]
)
def test_frame_is_resized_to_the_nearest_multiple_and_back(size, working):
    image, mask = half_frame(128)
    image, mask = (functional.interpolate(x, size) for x in (image, mask))
    sizes = []

    def fill(image, mask):
        assert image.shape[-2:] == (32, 32)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        sizes.append(len(image))
        return image

    found = fill_in_pieces(fill, image, mask, Subsampling(side_px=32))
    assert found.shape == image.shape
    assert sum(sizes) * 32 * 32 == np.prod(working)
    far = functional.max_pool2d(mask, 13, 1, 6) == 0
    assert ((found - image).abs() * far).max() < 0.15


def test_nothing_hidden_reaches_the_network():
    image, mask = half_frame(50)
    other = torch.where(mask.bool(), torch.ones_like(image), image)
    seen = []

    def fill(image, mask):
        seen.append(torch.cat([image, mask], dim=1))
        return image

    for one in (image, other):
        fill_in_pieces(fill, one, mask, Subsampling(side_px=32, average=True))
    torch.testing.assert_close(seen[0], seen[5], rtol=0, atol=0)
    assert seen[0][:, 3].sum() > 0


def test_average_is_over_four_turns_and_a_mirror_in_8_bits():
    image, mask = half_frame(32)
    predicted = torch.rand(5, 1, 3, 32, 32) * 2 - 1
    turns = []

    def fill(image, mask):
        turns.append(image)
        return predicted[len(turns) - 1]

    how = Subsampling(side_px=32, average=True)
    found = fill_in_pieces(fill, image, mask, how)
    hidden = (image * (1 - mask))[0].numpy()
    for number, turned in enumerate(turns[:4]):
        np.testing.assert_array_equal(turned[0].numpy(), np.rot90(hidden, number, (1, 2)))
    np.testing.assert_array_equal(turns[4][0].numpy(), hidden[..., ::-1])
    levels = [np.rot90(predicted[n, 0].numpy(), -n, (1, 2)) for n in range(4)]
    levels.append(predicted[4, 0].numpy()[..., ::-1])
    mean = np.mean([np.floor((one.astype(np.float64) + 1) * 127.5) for one in levels], axis=0)
    np.testing.assert_allclose(found[0].numpy(), np.round(mean) / 127.5 - 1, atol=1e-6)


def test_low_pass_smooths():
    image, mask = half_frame(64)
    checks = torch.ones(1, 3, 64, 64)
    checks[..., ::2] = -1

    def sure(image, mask):
        return torch.cat([checks[..., v::2, u::2] for v in (0, 1) for u in (0, 1)])

    kept = fill_in_pieces(sure, image, mask, Subsampling(side_px=32))
    smooth = fill_in_pieces(sure, image, mask, Subsampling(side_px=32, low_pass=True))
    assert kept.std() > 0.99
    assert smooth.std() < 0.1


@pytest.mark.parametrize("values", [{"side_px": -1}, {"average": True}, {"low_pass": True}])
def test_what_cannot_be_is_refused(values):
    with pytest.raises(ValueError, match="side_px"):
        Subsampling(**values)
