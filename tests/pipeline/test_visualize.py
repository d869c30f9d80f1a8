"""Images of intermediate results keep the colours of the photograph."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infill.models.architecture import load
from infill.pipeline import checkpoints
from infill.pipeline.config import to_dict
from infill.pipeline.visualize import VisualizeConfig, visualize


def test_red_stays_red_in_every_picture_of_known_pixels(tmp_path: Path) -> None:
    torch.manual_seed(1)
    paper = load("spn")
    model = paper.config.tiny()
    checkpoints.export(
        str(tmp_path / "spn"),
        {"generator": paper.generator(model).state_dict()},
        {"model": to_dict(model), "data": {"image_size_px": 64}},
        {"step": 1},
    )
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0], red[..., 1] = 220, 30
    Image.fromarray(red).save(tmp_path / "red.png")
    places = visualize(
        VisualizeConfig(
            checkpoint=str(tmp_path / "spn"),
            image=str(tmp_path / "red.png"),
            out=str(tmp_path / "out"),
        )
    )
    masked = np.asarray(Image.open(places["masked image"]).convert("RGB"))
    assert masked.shape == red.shape
    assert np.array_equal(masked[:8], red[:8])
    sheet = np.asarray(Image.open(places["sheet"]).convert("RGB")).astype(int)
    reddish = (abs(sheet - (220, 30, 0)).max(axis=2) < 12).mean()
    bluish = (abs(sheet - (0, 30, 220)).max(axis=2) < 12).mean()
    assert reddish > 0.05
    assert bluish == 0
