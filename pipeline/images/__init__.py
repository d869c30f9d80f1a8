"""Image files as arrays: decoding, encoding, orientation, colour profiles and limits.

Arrays are RGB, uint8, everywhere outside this package. ``codec`` reads and writes uploads within
limits, ``headers`` and ``originals`` read the images of datasets and write and read those of
shards, and ``masks`` reads every mask by the one rule of ``mask_rule``. ``tensors`` turns pixels
into the values of networks and back; it alone imports PyTorch.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.errors import RejectedError
    from infill.pipeline.images.arrays import ByteHole, Hole, Pixels, composite, grey
    from infill.pipeline.images.codec import (
        MEDIA_TYPES,
        DecodedImage,
        PilImage,
        decode,
        decoded_image,
        encode,
        encode_mask,
        encode_png,
        fill_in,
        to_pillow,
        upright_size,
    )
    from infill.pipeline.images.headers import SUFFIX_OF, Header, read_header
    from infill.pipeline.images.kinds import Format
    from infill.pipeline.images.mask_rule import (
        HOLE_THRESHOLD,
        Channel,
        MaskForm,
        MaskRule,
        Polarity,
    )
    from infill.pipeline.images.masks import read_mask, read_mask_form, read_opacity
    from infill.pipeline.images.originals import (
        ENCODER,
        decode_original,
        decode_sample,
        encode_sample,
        is_jpeg,
    )

__all__ = [
    "ENCODER",
    "HOLE_THRESHOLD",
    "MEDIA_TYPES",
    "SUFFIX_OF",
    "ByteHole",
    "Channel",
    "Format",
    "Header",
    "Hole",
    "MaskForm",
    "MaskRule",
    "DecodedImage",
    "PilImage",
    "Pixels",
    "Polarity",
    "RejectedError",
    "composite",
    "decode",
    "decode_original",
    "decode_sample",
    "encode",
    "encode_mask",
    "encode_png",
    "encode_sample",
    "is_jpeg",
    "fill_in",
    "grey",
    "decoded_image",
    "read_header",
    "read_mask",
    "read_mask_form",
    "read_opacity",
    "to_pillow",
    "upright_size",
]

__getattr__ = lazy_names(
    __name__,
    {
        "arrays": ("ByteHole", "Hole", "Pixels", "composite", "grey"),
        "codec": (
            "MEDIA_TYPES",
            "DecodedImage",
            "PilImage",
            "decode",
            "encode",
            "encode_mask",
            "encode_png",
            "fill_in",
            "decoded_image",
            "to_pillow",
            "upright_size",
        ),
        "headers": ("SUFFIX_OF", "Header", "RejectedError", "read_header"),
        "kinds": ("Format",),
        "mask_rule": ("HOLE_THRESHOLD", "Channel", "MaskForm", "MaskRule", "Polarity"),
        "masks": ("read_mask", "read_mask_form", "read_opacity"),
        "originals": ("ENCODER", "decode_original", "decode_sample", "encode_sample", "is_jpeg"),
    },
)
