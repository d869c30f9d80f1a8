"""Metrics that are the judgement of a trained network: FID, KID, inception score, LPIPS.

A figure under one of these names is that of the published network or is not given at all: without
its weights a table says "not computed: weights not given", never a number from another network.
"""

from dataclasses import dataclass

NOT_GIVEN = "not computed: weights not given"


@dataclass(frozen=True, kw_only=True)
class NetworkMetric:
    """How tables show the judgement of a network."""

    title: str
    better: str
    decimals: int


OF_NETWORKS: dict[str, NetworkMetric] = {
    "fid": NetworkMetric(title="FID", better="lower", decimals=2),
    "kid": NetworkMetric(title="KID x 1000", better="lower", decimals=2),
    "inception_score": NetworkMetric(title="inception score", better="higher", decimals=2),
    "places_score": NetworkMetric(
        title="IS by a Places365 classifier", better="higher", decimals=2
    ),
    "lpips": NetworkMetric(title="LPIPS", better="lower", decimals=3),
}
"""By name, as protocols and published tables use it."""
