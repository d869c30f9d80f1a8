"""Convert images of any format that is read to those that are accepted as uploads."""

from infill.pipeline.errors import ImageError, RejectedError
from infill.pipeline.images.codec import encode_pixels, is_upload
from infill.pipeline.images.headers import read_header
from infill.pipeline.images.masks import pixels_of_any_format
from infill.pipeline.images.originals import decode_original


def as_upload(data: bytes, max_pixels: int) -> bytes:
    """Return an image's file if it may be uploaded, or else its pixels as a PNG of 8-bit RGB.

    So a TIFF, BMP, GIF or 16-bit PNG is inpainted as sharding reads it.

    Raises:
        ImageError: if it is not an image, or too large.
    """
    if is_upload(data):
        return data
    try:
        return encode_pixels(decode_original(data, read_header(data, max_pixels)))
    except RejectedError as error:
        raise ImageError("unsupported_image", f"the image cannot be read: {error}") from error


def mask_as_upload(data: bytes, max_pixels: int) -> bytes:
    """Return a mask's file if it may be uploaded, or else its levels as an 8-bit PNG.

    Raises:
        ImageError: if it is not an image, or too large.
    """
    return data if is_upload(data) else encode_pixels(pixels_of_any_format(data, max_pixels))
