"""Write original images into tar shards and a manifest.

``listing`` lists the originals of a source once, in a fixed order, and cuts the list into numbered
ranges before any image is opened. A shard is a pure function of its range and the configuration
(``shard_writer``, with ``preprocess``, ``samples`` and ``tar_writer``), so any worker can write it,
in any order, more than once. A finished shard has a record beside it; ``runner`` distributes the
missing shards over the cluster and writes the manifest from the records at the end.
"""

from typing import TYPE_CHECKING

from infill.lazy import lazy_names

if TYPE_CHECKING:
    from infill.pipeline.sharding.config import ShardConfig
    from infill.pipeline.sharding.runner import make_shards

__all__ = ["ShardConfig", "make_shards"]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("ShardConfig",),
        "runner": ("make_shards",),
    },
)
