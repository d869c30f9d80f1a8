"""Refinement: the structure of the reduced prediction, the detail of tiles, no seams."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.inference.inpainter import Inpainter
from infill.pipeline.inference.predictor import Predictor
from infill.pipeline.inference.refinement import STRUCTURE, Refinement
from infill.pipeline.inference.tiling_plan import plan_tiles

TILING = TilingConfig(sides_px=(64, 128), least_crop_px=64)
HEIGHT, WIDTH = 384, 512
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[60:330, 40:470] = True


class Prediction(NamedTuple):
    final: Tensor


class Textured(nn.Module):
    """Predicts a level, by the share of the tile that is missing, and a fine texture."""

    def __init__(self) -> None:
        super().__init__()
        self.contrast = nn.Parameter(torch.tensor(0.2))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, mask: Tensor) -> Prediction:
        self.seen += [tuple(shape[-2:]) for shape in [image.shape] for _ in image]
        level = mask.mean(dim=(2, 3), keepdim=True) - 0.5
        rows, columns = torch.meshgrid(*map(torch.arange, image.shape[-2:]), indexing="ij")
        texture = self.contrast * ((rows + columns) % 2 * 2 - 1)
        return Prediction(final=(level + texture).expand_as(image).clone())


@pytest.fixture
def inpainter() -> Inpainter:
    return Inpainter(Predictor(generator=Textured().eval(), size_multiple=1), tiling=TILING)


def inside(shrunk_px: int = 20) -> tuple[slice, slice]:
    """Return the hole without its edges."""
    return slice(60 + shrunk_px, 330 - shrunk_px), slice(40 + shrunk_px, 470 - shrunk_px)


def test_known_pixels_stay_and_the_hole_differs_from_resizing(inpainter):
    refined, resized = (inpainter(IMAGE, HOLE, mode=mode) for mode in ("refine", "resize"))
    np.testing.assert_array_equal(refined[~HOLE], IMAGE[~HOLE])
    assert (refined[HOLE] != resized[HOLE]).mean() > 0.6
    np.testing.assert_array_equal(refined, inpainter(IMAGE, HOLE, mode="refine"))


def test_structure_is_that_of_the_reduced_prediction(inpainter):
    """The tiles alone predict other levels, each its own."""
    refined, resized, tiled = (
        inpainter(IMAGE, HOLE, mode=mode)[inside()].astype(float)
        for mode in ("refine", "resize", "tile")
    )
    side = 64
    for top in range(0, 192, side):
        for left in range(0, 384, side):
            at = (slice(top, top + side), slice(left, left + side))
            assert refined[at].mean() == pytest.approx(resized[at].mean(), abs=2)
    assert abs(tiled.mean() - resized.mean()) > 10


def test_detail_is_that_of_full_size_tiles(inpainter):
    """The texture of one pixel is there, which an enlarged prediction cannot show."""
    fine = {
        mode: np.abs(np.diff(inpainter(IMAGE, HOLE, mode=mode)[inside()].astype(int), axis=1))
        for mode in ("refine", "resize", "tile")
    }
    layout = plan_tiles(HOLE, TILING, "refine")
    assert isinstance(layout, Refinement)
    seeing = np.zeros_like(HOLE)
    for frame in layout.tiles:
        seeing[frame.window] = True
    for frame in layout.blind:
        seeing[frame.window] = False
    there = seeing[inside()][:, 1:]
    assert np.median(fine["refine"][there]) > 0.8 * np.median(fine["tile"][there])
    assert np.median(fine["refine"][there]) > 3 * np.median(fine["resize"][there])


def test_edges_of_tiles_are_no_seams(inpainter):
    refined = inpainter(IMAGE, HOLE, mode="refine").astype(np.float32)
    smooth = cv2.blur(refined, (4, 4))[inside()][..., 0]  # without the texture of one pixel
    layout = plan_tiles(HOLE, TILING, "refine")
    rows, columns = inside()
    steps = np.abs(np.diff(smooth, axis=1)).mean(axis=0)
    lefts = {frame.left for frame in (*layout.tiles, *layout.blind)}
    edges = [left - columns.start for left in lefts if columns.start < left < columns.stop]
    assert len(edges) >= 3
    others = [step for at, step in enumerate(steps) if all(abs(at - edge) > 3 for edge in edges)]
    assert max(steps[edge - 1] for edge in edges) <= max(others)


def test_network_does_not_see_tiles_inside_the_hole(inpainter):
    layout = plan_tiles(HOLE, TILING, "refine")
    assert len(layout.blind) > 0
    inpainter(IMAGE, HOLE, mode="refine")
    assert len(inpainter.predictor.generator.seen) == 1 + len(layout.tiles)
    assert layout.kind == "refine"
    assert layout.scale == pytest.approx(128 / 512)
    assert STRUCTURE * layout.scale < layout.scale


def test_nothing_is_refined_where_nothing_is_reduced(inpainter):
    hole = np.zeros((100, 120), bool)
    hole[20:40, 30:60] = True
    assert plan_tiles(hole, TILING, "refine") == plan_tiles(hole, TILING)
