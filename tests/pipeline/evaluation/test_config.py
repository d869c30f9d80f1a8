import pytest

from infill.pipeline.config import from_dict, to_dict
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.masks import HOLE_RATIO_BUCKETS, MaskConfig


def test_buckets_become_groups_with_masks_of_their_range():
    config = EvaluationConfig(checkpoint="c", shards="s", masks=MaskConfig(recipe="box"))
    assert [group.name for group in config.groups][:2] == ["0.01-0.1", "0.1-0.2"]
    bounds = [(g.masks.min_hole_ratio, g.masks.max_hole_ratio) for g in config.groups]
    assert tuple(bounds) == HOLE_RATIO_BUCKETS
    assert {group.masks.recipe for group in config.groups} == {"box"}
    assert all(group.in_all for group in config.groups)


def test_without_buckets_the_recipe_keeps_its_own_range():
    masks = MaskConfig(recipe="centre", min_hole_ratio=0.1, max_hole_ratio=0.5)
    config = EvaluationConfig(checkpoint="c", shards="s", masks=masks, buckets=())
    assert [group.name for group in config.groups] == ["0.1-0.5"]
    assert config.groups[0].masks == masks


def test_configuration_survives_json():
    config = EvaluationConfig(
        checkpoint="c", shards="s", buckets=((0.1, 0.3),), baselines=("telea",), num_images=3
    )
    assert from_dict(EvaluationConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"baselines": ("photoshop",)}, "unknown baseline 'photoshop'"),
        ({"batch_size": 0}, "batch_size must be at least 1: 0"),
        ({"num_images": 0}, "num_images must be at least 1: 0"),
        ({"examples": 0}, "examples must be at least 1: 0"),
        ({"gpus_per_actor": -1.0}, "gpus_per_actor must not be negative"),
        ({"buckets": ((0.1, 0.2), (0.1, 0.2))}, "buckets are repeated"),
        ({"buckets": ((0.3, 0.2),)}, "min < max"),
        ({"masks": MaskConfig(recipe="centre")}, "'centre' mask always covers 0.25"),
        ({"masks": MaskConfig(curriculum_steps=5)}, "curriculum_steps must be 0"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        EvaluationConfig(checkpoint="c", shards="s", **changes)
