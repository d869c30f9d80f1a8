from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from infill.models.architecture import fill, load
from infill.models.config import Subsampling
from infill.models.subsampling import fill_in_pieces
from infill.pipeline.baselines import telea
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig, evaluate, prepare
from infill.pipeline.evaluation.comparison import compare
from infill.pipeline.evaluation.comparison_page import write_comparison
from infill.pipeline.evaluation.config import CompareConfig
from infill.pipeline.evaluation.scorer import Scorer
from infill.pipeline.images import composite
from infill.pipeline.images.tensors import to_pixels, to_tensor
from infill.pipeline.masks import MaskConfig
from infill.pipeline.metrics.image_metrics import scores
from infill.pipeline.sharding import ShardConfig, make_shards

SIZES = [(70, 100), (64, 64), (90, 50)]


@pytest.fixture(scope="module")
def whole_set(tmp_path_factory, ray_local) -> str:
    """Photographs of several shapes, sharded as they are."""
    folder = tmp_path_factory.mktemp("originals") / "test"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        coarse = random.integers(0, 256, (6, 6, 3), np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    out = tmp_path_factory.mktemp("whole")
    config = ShardConfig(source=str(folder.parent), out=str(out), format="png", min_side_px=32)
    make_shards(config, report=lambda line: None)
    return str(out / "test")


@pytest.fixture
def config(checkpoint: str, whole_set: str, tmp_path) -> EvaluationConfig:
    return EvaluationConfig(
        checkpoint=checkpoint,
        shards=whole_set,
        out=str(tmp_path / "evaluation"),
        crop="original",
        subsampling=Subsampling(side_px=32),
        masks=MaskConfig(recipe="box"),
        buckets=(),
        baselines=("telea",),
        num_actors=0,
        examples=3,
    )


def test_images_keep_size_and_shape_and_are_scored_so(config):
    evaluation = evaluate(config, report=str)
    pairs = pq.read_table(evaluation.files["pairs"]).to_pylist()
    assert sorted((p["height_px"], p["width_px"]) for p in pairs) == sorted(SIZES)
    scorer = Scorer(config, 48, "")
    rows = pq.read_table(evaluation.files["rows"]).to_pylist()
    for index, pair in enumerate(pairs):
        image = scorer.pairs.image(scorer.pairs[index])
        bits = np.frombuffer(pair["hole"], np.uint8)
        hole = np.unpackbits(bits, count=image[..., 0].size).reshape(image.shape[:2])
        predicted = composite(telea(image, hole), image, hole)
        expected = scores(
            *(torch.from_numpy(x)[None] for x in (predicted, image)),
            torch.from_numpy(hole)[None, None].float(),
        )
        found = next(r for r in rows if (r["pair"], r["method"]) == (index, "telea"))
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), abs=1e-5), name


def test_network_sees_pieces_of_what_is_large_and_all_of_what_is_not(config):
    scorer = Scorer(config, 48, "")
    whole = Scorer(replace(config, subsampling=Subsampling(side_px=100)), 48, "")
    generator, multiple = scorer.loaded.generator, scorer.loaded.config.size_multiple
    for index in range(len(scorer.pairs)):
        [predicted], [undivided] = (one.fill([index]).predictions["spn"] for one in (scorer, whole))
        pair = scorer.pairs[index]
        image = to_tensor(scorer.pairs.image(pair))
        mask = torch.from_numpy(scorer.pairs.mask(pair).hole)[None, None].float()

        def one(image, mask):
            return fill(generator, image, mask, multiple)

        with torch.inference_mode():
            expected = fill_in_pieces(one, image, mask, Subsampling(side_px=32))
            direct = one(image, mask)
        np.testing.assert_array_equal(predicted, to_pixels(expected)[0])
        np.testing.assert_array_equal(undivided, to_pixels(direct)[0])
        assert not np.array_equal(predicted, undivided)


def test_pairs_of_whole_images_are_frozen_and_compared(config, other_checkpoint, tmp_path):
    first = evaluate(config, report=str)
    again = replace(
        config,
        checkpoint=other_checkpoint,
        pairs=first.files["pairs"],
        masks=MaskConfig(),
        buckets=EvaluationConfig(checkpoint="", shards="").buckets,
        out=str(tmp_path / "second"),
    )
    second = evaluate(again, report=str)
    assert pq.read_table(second.files["pairs"]).equals(pq.read_table(first.files["pairs"]))
    with pytest.raises(UserError, match=r"of sides from 50 to 100 px.*--crop original"):
        prepare(replace(again, crop="squash"))
    comparison = compare(CompareConfig(evaluations=(first.out, second.out), cases=2))
    page = Path(write_comparison(comparison, str(tmp_path / "comparison")))
    assert page.read_text().count('class="stage"') == 4


def test_squares_are_no_whole_images(config, test_set, whole_set, checkpoint, tmp_path):
    squares = EvaluationConfig(
        checkpoint=checkpoint,
        shards=whole_set,
        out=str(tmp_path / "squares"),
        image_size_px=48,
        crop="squash",
        baselines=(),
        num_actors=0,
        num_images=1,
    )
    pairs = evaluate(squares, report=str).files["pairs"]
    whole = replace(config, pairs=pairs, masks=MaskConfig(), buckets=squares.buckets)
    with pytest.raises(UserError, match=r"a hole of 48x48 px .* leave out --crop original"):
        prepare(whole)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image_size_px": 64}, "images stay of their original size"),
        ({"samples": 5}, "several samples need whole frames"),
    ],
)
def test_what_does_not_go_with_whole_images_is_refused(config, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        replace(config, **changes)


def test_original_size_is_a_papers_protocol():
    config = EvaluationConfig(checkpoint="c", shards="s", protocol="deepgin-oxford-original")
    assert config.setting.subsampling == Subsampling(side_px=256)
    released = Subsampling(side_px=256, average=True, low_pass=True)
    assert replace(config, subsampling=released).setting.subsampling == released
    assert load("deepgin").config().size_multiple <= 256
