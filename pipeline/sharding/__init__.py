"""Write original images into tar shards and a manifest.

A source's originals are listed once, in order, and cut into numbered ranges before any is opened
(``listing``). Shard k is then a pure function of its range and the settings (``shard``, from
``photographs``, ``samples`` and ``tars``), so that shards can be written by anyone, in any order,
again and again. What is finished has a record beside it; ``making`` spreads the missing shards
over the cluster and assembles the manifest from the records, last.
"""

from pipeline.sharding.config import ShardConfig
from pipeline.sharding.runner import make_shards

__all__ = ["ShardConfig", "make_shards"]
