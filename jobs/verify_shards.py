"""Verify shard sets against their manifests, and repair damaged shards.

python jobs/verify_shards.py --shards runs/shards
python jobs/verify_shards.py --shards runs/shards --repair

The exit status is 1 if a shard is damaged and not repaired. The job also names val and test images
that look like a train image, because scores on them are too good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import announce_start
from infill.pipeline.manifest import Manifest
from infill.pipeline.sources import S3Config

NAMED = 10


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """The sets to verify, and whether to repair them."""

    shards: str = "runs/shards"
    """Folder or s3:// prefix of the sets, with train/, val/ and test/."""
    repair: bool = False
    """Whether to make damaged shards again from their originals, to the same bytes."""
    near_duplicate_bits: int = 4
    """Near duplicates: maximum number of the 64 bits of the perceptual hash in which an image of
    val or test differs from one of train; -1 turns the report off."""

    s3: S3Config = field(default_factory=S3Config)
    """The S3 service behind s3:// addresses."""

    def __post_init__(self) -> None:
        """Check the number of bits."""
        if not -1 <= self.near_duplicate_bits <= 16:
            raise UserError(f"near_duplicate_bits is {self.near_duplicate_bits}, expected -1 to 16")


def main(words: Sequence[str] | None = None) -> None:
    """Verify the sets, repair them if asked, and print the damage."""
    config = parse_one(VerifyConfig, __doc__, words)
    announce_start(f"verification of {config.shards}: reading the manifests")
    from infill.pipeline.sharding.verify import read_sets, repair, verify

    damages = verify(config.shards, s3=config.s3)
    for damage in damages:
        print(f"{damage.split}: shard {damage.number} {damage.what}")
    if damages and config.repair:
        repair(config.shards, damages, s3=config.s3)
        damages = verify(config.shards, s3=config.s3)
    if config.near_duplicate_bits >= 0:
        report_near_duplicates(read_sets(config.shards), config.near_duplicate_bits)
    if damages:
        raise UserError(
            f"{len(damages)} shards of {config.shards} are damaged; repair them with --repair"
        )


def report_near_duplicates(sets: dict[str, Manifest], most_bits: int) -> None:
    """Print how many samples of val and test look like a train sample, with the first of them."""
    from infill.pipeline.sharding.dedup import near_duplicates

    for split in ("val", "test"):
        if split not in sets or "train" not in sets:
            continue
        found = near_duplicates(sets[split], sets["train"], most_bits)
        print(f"{split}: {len(found)} of {len(sets[split])} samples look like one of train")
        for pair in found[:NAMED]:
            print(f"  {pair.key} looks like {pair.other_key}: {pair.bits} of 64 bits differ")


if __name__ == "__main__":
    run(main)
