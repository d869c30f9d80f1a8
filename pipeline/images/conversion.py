"""Convert images of any format that is read to those that every release of the service accepts."""

from infill.pipeline.images.codec import decode, encode_pixels, is_upload
from infill.pipeline.images.masks import decode_levels


def as_upload(data: bytes, max_pixels: int) -> bytes:
    """Return an image's file if it may be uploaded, or else its pixels as a PNG of 8-bit RGB.

    So a TIFF, BMP, GIF or 16-bit PNG is inpainted as sharding reads it.

    Raises:
        ImageError: if it is not an image, or too large.
    """
    return data if is_upload(data) else encode_pixels(decode(data, max_pixels).pixels)


def mask_as_upload(data: bytes, max_pixels: int) -> bytes:
    """Return a mask's file if it may be uploaded, or else its levels as an 8-bit PNG.

    Raises:
        ImageError: if it is not an image, or too large.
    """
    if is_upload(data):
        return data
    return encode_pixels(decode(data, max_pixels, "mask", decode_levels).pixels)
