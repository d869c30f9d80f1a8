"""A search around two tiny steps."""

import pytest

from infill.pipeline.config import override
from infill.pipeline.tuning import TuneConfig


@pytest.fixture(scope="module")
def config(two_steps, tmp_path_factory):
    """Return the search's settings; a trial trains in one process, whatever the training says."""
    training = override(two_steps, {"num_workers": 2})
    return TuneConfig(train=training, storage=str(tmp_path_factory.mktemp("sweep")))
