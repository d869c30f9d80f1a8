from typing import Any

import pytest

from infill.models.madf.config import MADFConfig


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"num_refinements": 4}, "num_refinements must be 0 to 3, not 4"),
        ({"num_refinements": -1}, "num_refinements must be 0 to 3, not -1"),
        ({"levels": 1}, "levels must be at least 2, not 1"),
        ({"norm_channels": 0}, "norm_channels must be at least 1, not 0"),
        ({"style_weight": -1.0}, "style_weight must not be negative, not -1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"beta2": 1.0}, r"beta2 must lie in \[0, 1\), not 1.0"),
        ({"encoder": "partial"}, "num_refinements must be 0, not 2"),
        (
            {"encoder": "gated", "num_refinements": 0, "dead_norms": True},
            "dead_norms belong to encoder 'dynamic', not 'gated'",
        ),
        ({"num_refinements": 3, "style_target": "released"}, "not 3; take 'last'"),
    ],
)
def test_impossible_numbers_are_refused_with_a_sentence(
    wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        MADFConfig(**wrong)


def test_widths_are_the_published_ones() -> None:
    config = MADFConfig()
    assert config.filter_widths == (16, 32, 64, 128, 128, 128, 128)
    assert config.skip_widths == (64, 128, 256, 512, 512, 512, 512)
    assert config.size_multiple == 128
