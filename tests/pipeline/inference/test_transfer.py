"""Bytes to the device and back; the device converts them, to the bit."""

import numpy as np
import pytest
import torch

from infill.pipeline.images.tensors import to_levels, to_pixels, to_tensor, values_of
from infill.pipeline.inference.transfer import download, upload


def quantized_by_numpy(image):
    values = image.numpy().astype(np.float32)
    levels = np.rint(np.clip(values * np.float32(127.5) + np.float32(127.5), 0, 255))
    return levels.astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture
def image():
    """Return every level, the ties between levels, and values out of range."""
    ties = (torch.arange(256 * 3).float() / 2 - 64).div(127.5) - 1
    chance = torch.rand(2 * 3 * 64 * 60, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    values = torch.cat([ties, chance])[: 3 * 16 * 164]
    return values.reshape(1, 3, 16, 164)


def test_levels_are_those_of_numpy_s_rounding(image):
    levels = to_levels(image)
    assert levels.dtype == torch.uint8
    for found in (levels.numpy(), download(image), to_pixels(image)):
        np.testing.assert_array_equal(found, quantized_by_numpy(image))
    np.testing.assert_array_equal(download(image.bfloat16()), to_pixels(image.bfloat16().float()))


def test_values_made_on_a_device_are_those_made_on_the_cpu():
    pixels = np.arange(2 * 8 * 32 * 3, dtype=np.int64).reshape(2, 8, 32, 3).astype(np.uint8)
    assert torch.equal(values_of(torch.from_numpy(pixels)), to_tensor(pixels))
    holes = (pixels[..., 0] > 100).astype(np.uint8)
    image, mask = upload(pixels, holes, "cpu")
    assert torch.equal(image, to_tensor(pixels))
    assert torch.equal(mask[:, 0], torch.from_numpy(holes).float())
    np.testing.assert_array_equal(download(image), pixels)


@pytest.mark.gpu
def test_a_gpu_converts_to_the_same_bits_and_copies_bytes(image):
    pixels = to_pixels(image)
    holes = (pixels[..., 0] > 100).astype(np.uint8)
    for _ in range(3):  # The pinned buffers of earlier batches are used again.
        there, mask = upload(pixels, holes, "cuda")
        assert torch.equal(there.cpu(), to_tensor(pixels))
        assert torch.equal(mask.cpu()[:, 0], torch.from_numpy(holes).float())
        np.testing.assert_array_equal(download(there), pixels)
        np.testing.assert_array_equal(download(image.cuda()), quantized_by_numpy(image))
