"""A service that grows with its load; its replicas are others than those of test_service.py."""

import pytest

from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.deployment import start, stop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(ray_local, spn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    yield start(
        ServeConfig(
            model=spn.location,
            port=0,
            registry=RegistryConfig(tracking_uri=f"sqlite:///{folder}/mlflow.db"),
            cpus_per_replica=0.5,
            max_replicas=2,
            upscale_delay_s=1.0,
            max_batch_size=1,
            limits=LimitsConfig(max_pixels=1_000_000, max_waiting=16),
            tiling=TilingConfig(sides_px=(64, 128), least_crop_px=64),
        )
    )
    stop()


def test_replicas_come_with_the_load_and_go_with_it(url, make, under_load, wait_until):
    from ray import serve

    def replicas() -> int:
        found = serve.status().applications["infill"].deployments.get("replica")
        return found.replica_states.get("RUNNING", 0) if found else 0

    assert replicas() == 1
    hole = make.hole(60, 60, slice(20, 30), slice(20, 30))
    request = {"files": {"image": make.file(make.photograph(60, 60)), "mask": make.file(hole)}}
    with under_load(url, request, callers=8) as answers:
        wait_until(lambda: replicas() == 2)
    assert answers
    assert {status for status, _ in answers} <= {200, 503}
    wait_until(lambda: replicas() == 1)
