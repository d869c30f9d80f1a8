"""A training of six tiny steps, and a comparison of the weights of two."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig, train

WEIGHTS = ("generator", "discriminator", "ema", "optimizers")


@pytest.fixture(scope="session")
def training(shards):
    """Give trainings of six tiny steps in this process, by the folder of the run."""

    def of(storage):
        return TrainConfig(
            model=SPNConfig.tiny(),
            data=BatchConfig(
                shards=shards, batch_size=4, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
            ),
            storage=str(storage),
            steps=6,
            num_workers=0,
            ema_decay=0.9,
            report_every_steps=2,
            save_every_steps=2,
            sample_every_steps=6,
            keep_checkpoints=3,
            validation_samples=4,
            tracking=TrackingConfig(tracking_uri=""),
        )

    return of


@pytest.fixture(scope="session")
def finished(training, tmp_path_factory):
    """Train the six steps once, for tests that compare with them or resume from them; read only.

    Its configuration, result and lines.
    """
    config, lines = training(tmp_path_factory.mktemp("finished") / "run"), []
    return SimpleNamespace(config=config, result=train(config, lines.append), lines=lines)


@pytest.fixture
def config(training, tmp_path):
    """Return a training in a folder of the test's own."""
    return training(tmp_path / "run")


@pytest.fixture(scope="session")
def quietly():
    """Return the function."""
    return _quietly


def _quietly(line):
    """Say nothing."""


@pytest.fixture(scope="session")
def weights():
    """Return the function."""
    return _weights


def _weights(run, step):
    location = Path(checkpoints.step_location(run, step))
    return {name: load_file(location / f"{name}.safetensors") for name in WEIGHTS}


@pytest.fixture
def largest_difference():
    """Return the function."""
    return _largest_difference


def _largest_difference(ours, theirs):
    return max(
        (ours[part][name].double() - theirs[part][name].double()).abs().max().item()
        for part in WEIGHTS
        for name in ours[part]
    )
