"""A search around two tiny steps."""

import pytest

from models.spn.config import SPNConfig
from pipeline.batches import BatchConfig
from pipeline.masks import MaskConfig
from pipeline.tracking import TrackingConfig
from pipeline.training import TrainConfig
from pipeline.tuning import TuneConfig


@pytest.fixture(scope="module")
def config(shards, tmp_path_factory):
    """Return the search's settings."""
    return TuneConfig(
        train=TrainConfig(
            model=SPNConfig.tiny(),
            data=BatchConfig(
                shards=shards, batch_size=2, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
            ),
            steps=2,
            num_workers=2,
            validation_samples=4,
            tracking=TrackingConfig(tracking_uri=""),
        ),
        storage=str(tmp_path_factory.mktemp("sweep")),
    )
