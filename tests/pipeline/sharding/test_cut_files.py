"""What sharding admits is what the decoder of trainings takes, for files cut at their end."""

import io

import numpy as np
import pytest
from PIL import Image

from infill.pipeline.errors import RejectedError
from infill.pipeline.images.originals import decode_sample
from infill.pipeline.sharding.config import ShardConfig
from infill.pipeline.sharding.samples import samples_of

CUTS = range(1, 40)
OPTIONS = {
    "png": [{}, {"compress_level": 0}, {"optimize": True}],
    "jpeg": [{}, {"progressive": True}, {"subsampling": 0}],
    "webp": [{}, {"lossless": True}],
}


def photographs() -> list[Image.Image]:
    """A smooth one, noise, and grey."""
    rows, columns = np.mgrid[0:40, 0:56]
    smooth = np.stack([rows * 4, columns * 3, 90 + rows], -1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    return [Image.fromarray(smooth), Image.fromarray(noise), Image.fromarray(noise).convert("L")]


@pytest.mark.parametrize("form", OPTIONS)
def test_what_is_admitted_is_what_trainings_decode(form: str) -> None:
    config = ShardConfig(out="unused", min_side_px=8)
    for options in OPTIONS[form]:
        for image in photographs():
            sink = io.BytesIO()
            image.save(sink, form, **options)
            whole = sink.getvalue()
            (intact,) = samples_of("k", whole, config)
            assert intact.data == whole
            for cut in CUTS:
                data = whole[:-cut]
                try:
                    (sample,) = samples_of("k", data, config)
                except RejectedError:
                    continue
                loaded = decode_sample(sample.data)
                assert loaded is not None, (options, image.mode, cut)
                assert loaded.shape == (sample.height_px, sample.width_px, 3)
                np.testing.assert_array_equal(loaded, decode_sample(whole))
