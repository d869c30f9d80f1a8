"""The size of AV1 frames from their sequence header, in every form that section 5.5.1 allows."""

from itertools import product

import pytest

from infill.pipeline.images.avif_frames import _Bits, _size_in


def bits(number: int, count: int) -> str:
    return f"{number:0{count}b}"


def variable(number: int) -> str:
    """Return a number as uvlc writes it: as many zeros as bits follow its leading one."""
    written = f"{number + 1:b}"
    return "0" * (len(written) - 1) + written


def sequence_header(
    width: int,
    height: int,
    *,
    timing: bool,
    ticks: int | None,
    model_bits: int,
    display_delay: bool,
    levels: tuple[int, ...],
) -> bytes:
    """Return a whole sequence header; what is not asked for is ones, for which no size is taken."""
    written = bits(0, 3) + "0" + "0"  # The profile, no still picture, no shorter header.
    written += "1" if timing else "0"
    if timing:
        written += "1" * 64 + ("0" if ticks is None else "1" + variable(ticks))
        written += "1" + bits(model_bits - 1, 5) + "1" * 42 if model_bits else "0"
    written += "1" if display_delay else "0"
    written += bits(len(levels) - 1, 5)
    for number, level in enumerate(levels):
        here = number % 2 == 0  # Every second point has the optional fields.
        written += "1" * 12 + bits(level, 5) + ("1" if level > 7 else "")
        if timing and model_bits:
            written += "1" + "1" * (2 * model_bits + 1) if here else "0"
        if display_delay:
            written += "1" + "1" * 4 if here else "0"
    counts = [(side - 1).bit_length() for side in (width, height)]
    written += "".join(bits(count - 1, 4) for count in counts)
    written += bits(width - 1, counts[0]) + bits(height - 1, counts[1])
    written += "1" * 24
    return int(written + "0" * (-len(written) % 8), 2).to_bytes(-(-len(written) // 8), "big")


@pytest.mark.parametrize("levels", [(0,), (7,), (8, 3), (9, 12, 5)])
@pytest.mark.parametrize("model_bits", [0, 1, 10, 32])
def test_the_size_is_found_behind_every_optional_field(levels, model_bits):
    for display_delay, ticks in product((False, True), (None, 0, 1, 6, 200)):
        data = sequence_header(
            1201,
            70,
            timing=True,
            ticks=ticks,
            model_bits=model_bits,
            display_delay=display_delay,
            levels=levels,
        )
        assert _size_in(_Bits(data)) == (1201, 70)


@pytest.mark.parametrize("levels", [(0,), (8, 8, 8)])
@pytest.mark.parametrize("display_delay", [False, True])
def test_the_size_is_found_without_timing(levels, display_delay):
    data = sequence_header(
        64,
        65536,
        timing=False,
        ticks=None,
        model_bits=0,
        display_delay=display_delay,
        levels=levels,
    )
    assert _size_in(_Bits(data)) == (64, 65536)


def test_the_size_is_found_in_the_shorter_header_of_a_still_picture():
    written = (
        bits(0, 3) + "1" + "1" + "1" * 5 + bits(9, 4) + bits(8, 4) + bits(799, 10) + bits(299, 9)
    )
    written += "0" * (-len(written) % 8)
    assert _size_in(_Bits(int(written, 2).to_bytes(len(written) // 8, "big"))) == (800, 300)


def test_numbers_of_variable_length_end_where_their_bits_end():
    for number in (0, 1, 2, 6, 7, 1000, 2**32 - 2):
        written = variable(number) + "101"
        padded = written + "0" * (-len(written) % 8)
        reader = _Bits(int(padded, 2).to_bytes(len(padded) // 8, "big"))
        reader.skip_variable()
        assert reader.take(3) == 0b101


def test_bits_behind_the_end_are_zeros_and_a_number_without_end_is_left():
    reader = _Bits(b"\xff")
    assert reader.take(12) == 0b111111110000
    endless = _Bits(b"")
    endless.skip_variable()
    assert endless.position == 64
