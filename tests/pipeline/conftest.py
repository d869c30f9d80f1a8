"""Fixtures of the rooms that read and write object stores."""

import logging
import uuid
from collections.abc import Iterator

import pytest

from models.spn.config import SPNConfig
from pipeline.batches import BatchConfig
from pipeline.masks import MaskConfig
from pipeline.tracking import TrackingConfig
from pipeline.training import TrainConfig


@pytest.fixture(scope="module")
def s3_server() -> Iterator[dict[str, str]]:
    """Serve S3 over real HTTP from this process; yield the environment that leads to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
    server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, str]) -> str:
    """Return an s3:// prefix of the test's own."""
    import boto3

    name = f"photos-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/set"


@pytest.fixture(scope="module")
def two_steps(shards: str) -> TrainConfig:
    """Return a training of two tiny steps, which searches vary."""
    return TrainConfig(
        model=SPNConfig.tiny(),
        data=BatchConfig(
            shards=shards, batch_size=2, image_size_px=32, masks=MaskConfig(max_hole_ratio=0.5)
        ),
        steps=2,
        num_workers=0,
        validation_samples=4,
        tracking=TrackingConfig(tracking_uri=""),
    )
