"""Verify shard sets against their manifests, and repair damaged shards.

python jobs/verify_shards.py --shards runs/shards
python jobs/verify_shards.py --shards runs/shards --repair

The exit status is 1 if a shard is damaged and not repaired. The job also names val and test images
that look like a train image, because scores on them are too good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from infill.pipeline.commands import typed
from infill.pipeline.config import parse_one, run
from infill.pipeline.errors import UserError
from infill.pipeline.job_summary import announce_start, report_results
from infill.pipeline.manifest import Manifest
from infill.pipeline.progress import Progress
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
    """Verify the sets, repair them if asked; print the damage and the next command."""
    config = parse_one(VerifyConfig, __doc__, words)
    announce_start(f"verification of {config.shards}: reading the manifests")
    from infill.pipeline.sharding.verify import read_sets, repair, verify

    damages = verify(config.shards, s3=config.s3)
    for damage in damages:
        print(f"{damage.split}: shard {damage.number} {damage.what}")
    if damages and config.repair:
        repair(config.shards, damages, s3=config.s3)
        damages = verify(config.shards, s3=config.s3)
    sets = read_sets(config.shards)
    if config.near_duplicate_bits >= 0:
        report_near_duplicates(sets, config.near_duplicate_bits)
    if damages:
        raise UserError(
            f"{len(damages)} shards of {config.shards} are damaged; repair them with --repair"
        )
    report_results({}, typed("inspect_shards", "--shards", next(iter(sets.values())).location))


def report_near_duplicates(sets: dict[str, Manifest], most_bits: int) -> None:
    """Print how many samples of val and test look like a train sample, with the first of them."""
    from infill.pipeline.sharding.dedup import near_duplicates

    compared = [split for split in ("val", "test") if split in sets and "train" in sets]
    with Progress("comparison with train", len(compared), "sets") as progress:
        found_in = {}
        for split in compared:
            found_in[split] = near_duplicates(sets[split], sets["train"], most_bits)
            progress.advance()
    for split, found in found_in.items():
        print(f"{split}: {len(found)} of {len(sets[split])} samples look like one of train")
        for pair in found[:NAMED]:
            print(f"  {pair.key} looks like {pair.other_key}: {pair.bits} of 64 bits differ")


if __name__ == "__main__":
    run(main)
