from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig, evaluate, prepare
from infill.pipeline.evaluation.launch import warn_if_inverted
from infill.pipeline.evaluation.pairs import FrozenPairs, GeneratedPairs
from infill.pipeline.evaluation.scorer import Scorer, part_location
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig


@pytest.fixture
def config(checkpoint: str, test_set: str, tmp_path) -> EvaluationConfig:
    return EvaluationConfig(
        checkpoint=checkpoint,
        shards=test_set,
        out=str(tmp_path / "out"),
        buckets=((0.1, 0.2), (0.3, 0.4)),
        baselines=("mean-fill",),
        num_actors=0,
    )


@pytest.fixture
def frozen(config: EvaluationConfig, tmp_path) -> str:
    scorer = Scorer(config, 48, str(tmp_path / "parts"))
    for number in range(scorer.pairs.num_parts):
        scorer.work(number)
    parts = [
        pq.read_table(part_location(scorer.parts, "pairs", number))
        for number in range(scorer.pairs.num_parts)
    ]
    location = str(tmp_path / "pairs.parquet")
    pq.write_table(pa.concat_tables(parts), location)
    return location


def using(config: EvaluationConfig, location: str) -> EvaluationConfig:
    return replace(
        config, pairs=location, buckets=EvaluationConfig(checkpoint="", shards="").buckets
    )


def rewritten(location: str, **columns: list) -> str:
    table = pq.read_table(location)
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table, location)
    return location


def test_frozen_pairs_are_the_generated_ones_hole_by_hole(config, frozen, test_set):
    manifest = read_manifest(test_set)
    generated = GeneratedPairs(config, manifest, 48)
    kept = FrozenPairs(using(config, frozen), manifest)
    assert len(kept) == len(generated) == 16
    assert [group.name for group in kept.groups] == ["0.1-0.2", "0.3-0.4"]
    assert kept.image_size_px == 48
    assert kept.rows() == generated.rows()
    for index in range(len(kept)):
        ours, theirs = kept.mask(kept[index]), generated.mask(generated[index])
        assert np.array_equal(ours.hole, theirs.hole)
        assert ours.id == theirs.id
        assert kept[index].key == generated[index].key
        assert kept[index].group.name == generated[index].group.name


def test_evaluation_on_frozen_pairs_finds_the_same_scores(config, tmp_path):
    first = evaluate(config, report=str)
    again = replace(using(config, first.files["pairs"]), out=str(tmp_path / "again"), seed=0)
    second = evaluate(again, report=str)
    assert second.scores == first.scores
    assert second.digest != first.digest
    assert pq.read_table(second.files["pairs"]).equals(pq.read_table(first.files["pairs"]))


def test_another_file_of_pairs_is_another_evaluation(config, frozen):
    before = prepare(using(config, frozen)).digest
    assert prepare(using(config, frozen)).digest == before
    holes = pq.read_table(frozen)["hole"].to_pylist()
    holes[0] = bytes(len(holes[0]) - 1) + b"\x01"
    assert prepare(using(config, rewritten(frozen, hole=holes))).digest != before


def test_groups_that_do_not_count_in_all_stay_so(config, frozen, test_set):
    groups = pq.read_table(frozen)["group"].to_pylist()
    location = rewritten(frozen, in_all=[group != "0.3-0.4" for group in groups])
    kept = FrozenPairs(using(config, location), read_manifest(test_set))
    assert [group.in_all for group in kept.groups] == [True, False]


def test_pair_without_its_image_is_named(config, frozen):
    keys = pq.read_table(frozen)["key"].to_pylist()
    location = rewritten(frozen, key=["missing/one", *keys[1:]])
    with pytest.raises(UserError, match="pairs image 'missing/one' .* has no such image"):
        prepare(using(config, location))


def test_image_that_has_changed_since_is_named(config, frozen):
    checksums = pq.read_table(frozen)["image_sha256"].to_pylist()
    location = rewritten(frozen, image_sha256=["0" * 64, *checksums[1:]])
    with pytest.raises(UserError, match="their SHA-256 differ"):
        prepare(using(config, location))


def test_a_file_that_holds_no_pairs_is_refused(config, tmp_path):
    location = tmp_path / "some.parquet"
    with pytest.raises(UserError, match="there is no file of pairs"):
        prepare(using(config, str(location)))
    location.write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="is not a Parquet file of pairs"):
        prepare(using(config, str(location)))
    pq.write_table(pa.table({"key": ["a"]}), location)
    with pytest.raises(UserError, match="it lacks group, height_px, hole, image_sha256"):
        prepare(using(config, str(location)))


@pytest.mark.parametrize(
    "changes",
    [{"buckets": ((0.1, 0.2),)}, {"protocol": "spn-paris"}, {"num_images": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_pairs_decide_cannot_be_given_beside_them(changes):
    with pytest.raises(UserError, match=f"pairs p.parquet decides {next(iter(changes))}"):
        EvaluationConfig(checkpoint="c", shards="s", pairs="p.parquet", **changes)


def test_masks_that_hide_nearly_everything_are_reported_as_inverted(config, frozen, test_set):
    manifest = read_manifest(test_set)
    lines: list[str] = []
    warn_if_inverted(FrozenPairs(using(config, frozen), manifest), lines.append)
    assert lines == []
    holes = pq.read_table(frozen)["hole"].to_pylist()
    inverted = [bytes(255 - byte for byte in hole) for hole in holes]
    location = rewritten(frozen, hole=inverted)
    warn_if_inverted(FrozenPairs(using(config, location), manifest), lines.append)
    assert len(lines) == 1
    assert "inverted" in lines[0]


def test_large_holes_that_were_asked_for_are_no_mistake(config, test_set):
    masks = MaskConfig(min_hole_ratio=0.7, max_hole_ratio=0.9)
    asked = replace(config, masks=masks, buckets=())
    lines: list[str] = []
    warn_if_inverted(GeneratedPairs(asked, read_manifest(test_set), 48), lines.append)
    assert lines == []
