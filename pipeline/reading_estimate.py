"""Estimate how many images per second the nodes of a cluster can read and decode.

Every rate is per node: over its network, from the object store's limit of requests, and of its
decoding cores. The smallest one decides.
"""

from dataclasses import dataclass

from infill.pipeline.loading.lanes import share_per_node

S3_REQUESTS_PER_S = 5500
"""GET and HEAD requests per second that Amazon S3 promises for a prefix ("Best practices design
patterns: optimizing Amazon S3 performance")."""


@dataclass(frozen=True, kw_only=True)
class NodeReads:
    """What nodes read, and how."""

    nodes: int
    lanes: int
    images: int
    """Number of images in the set."""
    image_kb: float
    """Average size of an image in its shard, in KB."""
    images_per_shard: int
    requests_per_shard: int = 2
    """Requests per shard: one HEAD, one GET."""
    link_gbit_s: float
    decode_cores: float
    """Decoding cores of a node."""
    decodes_per_s: float
    """Images that a core decodes per second."""

    @property
    def share(self) -> float:
        """Share of the set that a node reads per epoch."""
        return share_per_node(self.nodes, self.lanes)

    @property
    def read_per_image(self) -> float:
        """Images that a node reads for each one that it decodes."""
        return self.share * self.nodes

    def rates(self) -> dict[str, float]:
        """Return the images per second and node that each limit allows."""
        read = self.read_per_image
        requests = self.requests_per_shard * read / self.images_per_shard * self.nodes
        return {
            "network": self.link_gbit_s * 1e9 / 8 / (self.image_kb * 1e3 * read),
            "requests": S3_REQUESTS_PER_S / requests,
            "decoding": self.decode_cores * self.decodes_per_s,
        }

    def limit(self) -> tuple[str, float]:
        """Return the limit that decides, and its images per second and node."""
        return min(self.rates().items(), key=lambda item: item[1])
