"""Tiles of a request: those of the service, and the training size of the requested model."""

from dataclasses import replace

import httpx
import numpy as np

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.http.inpaint_service import HttpConfig


class TwoModels:
    """Serves a second model, which was trained at another size, and records what is predicted."""

    def __init__(self, replica, spn) -> None:
        self._replica = replica
        self._models = [
            replace(spn, image_size_px=64),
            replace(spn, name="other", reference="other@champion", image_size_px=96),
        ]
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    async def fill(self, wanted, image, *arguments):
        self.seen.append((wanted, image.shape[:2]))
        return await self._replica.fill("spn", image, *arguments)

    async def describe(self):
        return self._models


def test_tiles_know_the_model_of_the_request(serving, replica, spn, make):
    backend = TwoModels(replica, spn)
    config = HttpConfig(tiling=TilingConfig(sides_px=(32, 64, 128), least_crop_px=64))
    hole = np.zeros((96, 96), np.uint8)
    hole[:20, :25] = 255
    files = {"image": make.file(make.photograph(96, 96)), "mask": make.file(hole)}
    with serving(backend, config) as url:
        for model in ("", "other@champion", "spn"):
            answer = httpx.post(f"{url}/v1/inpaint", files=files, data={"model": model}, timeout=60)
            assert answer.status_code == 200, answer.text
    assert backend.seen == [("", (128, 128)), ("other@champion", (96, 96)), ("spn", (128, 128))]
