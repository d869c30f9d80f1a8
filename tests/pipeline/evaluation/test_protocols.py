import pytest

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import PROTOCOLS, EvaluationConfig
from infill.pipeline.evaluation.protocols import load_protocol
from infill.pipeline.evaluation.published import PUBLISHED
from infill.pipeline.masks import MaskConfig, generate_mask
from infill.pipeline.metrics.metric_registry import FURTHER, METRICS, OF_NETWORKS

KNOWN = {metric.name for metric in METRICS} | set(FURTHER) | set(OF_NETWORKS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_published_figures_in_columns_and_metrics_it_knows(name):
    protocol = PROTOCOLS[name]
    columns = {group.name for group in protocol.groups} | {"all"}
    assert set(protocol.metrics) <= KNOWN
    assert PUBLISHED[name] or name == "pennet-dtd", "only votes may have no figures"
    for one in PUBLISHED[name]:
        assert one.source
        assert set(one.values) <= set(protocol.metrics)
        for figures in one.values.values():
            assert set(figures) <= columns
            assert all(float(figure) >= 0 for figure in figures.values())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_masks_of_every_protocol_can_be_generated_at_its_size(name):
    protocol = PROTOCOLS[name]
    side = protocol.image_size_px or 320
    for group in protocol.groups:
        ratio = generate_mask(group.masks, "a", 0, 0, side, side).hole_ratio
        assert group.masks.min_hole_ratio < ratio <= group.masks.max_hole_ratio
    assert any(group.in_all for group in protocol.groups)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_decides_everything_it_is_about(name):
    config = EvaluationConfig(checkpoint="c", shards="s", protocol=name)
    assert config.groups == PROTOCOLS[name].groups
    original = name.endswith("-original") or name == "deepgin-celebahq"
    side = 512 if name == "aotgan-places2" else 256
    assert config.setting.image_size_px == (None if original else side)
    assert {m.name for m in config.measured} >= set(PROTOCOLS[name].metrics) - set(OF_NETWORKS)


def test_published_figures_are_those_of_the_tables():
    def figure(protocol: str, system: str, metric: str, column: str) -> str:
        one = next(p for p in PUBLISHED[protocol] if p.system == system)
        return one.values[metric][column]

    assert figure("madf-places2", "MADF", "psnr", "all") == "26.11"
    assert figure("madf-places2", "MADF", "fid", "regular") == "8.29"
    assert figure("madf-places2", "GConv (DeepFill v2)", "ssim", "0.5-0.6") == "0.609"
    assert figure("spn-paris", "SPN", "psnr", "all") == "29.69"
    assert figure("spn-places2", "SPL", "grey_l1", "0.4-0.6") == "0.363"
    assert figure("spn-prob", "PIC, Paris", "fid", "0-0.2") == "40.42"
    assert figure("pennet-places2", "PEN-Net", "ms_ssim", "random") == "0.7809"
    assert figure("deepgin-ffhq", "DeepGIN", "lpips", "three types") == "0.274"
    assert figure("deepgin-ffhq-original", "DeepGIN", "psnr", "rectangles") == "26.05"
    assert figure("deepgin-oxford-original", "DeepFill v2", "fid", "three types") == "38.315"
    assert figure("aotgan-places2", "AOT-GAN", "psnr", "0.5-0.6") == "19.01"
    assert figure("aotgan-places2", "AOT-GAN", "l1", "0.01-0.1") == "0.55"
    assert len(PUBLISHED["madf-places2"]) == 9
    assert len(PUBLISHED["spn-places2"]) == 8


def test_deepgin_s_celebahq_is_inpainted_at_1024_px_in_pieces_of_256():
    protocol = PROTOCOLS["deepgin-celebahq"]
    assert (protocol.image_size_px, protocol.crop) == (None, "original")
    assert protocol.subsampling.side_px == 256
    assert "1024" in protocol.about


def test_pennet_s_study_hides_squares_of_three_sizes():
    for group, side in zip(PROTOCOLS["pennet-dtd"].groups, (32, 64, 128), strict=True):
        hole = generate_mask(group.masks, "a", 0, 0, 256, 256).hole
        assert group.name == f"{side} px"
        assert (hole.any(axis=0).sum(), hole.any(axis=1).sum()) == (side, side)


def test_madf_counts_the_centre_square_apart():
    groups = PROTOCOLS["madf-places2"].groups
    assert [group.name for group in groups if not group.in_all] == ["regular"]
    assert len(groups) == 7


def test_mask_files_take_the_place_of_irregular_masks_alone(tmp_path):
    masks = MaskConfig(folder=str(tmp_path), polarity="black", channel="red")
    config = EvaluationConfig(checkpoint="c", shards="s", protocol="madf-places2", masks=masks)
    recipes = [group.masks.recipe for group in config.groups]
    assert recipes == ["files"] * 6 + ["centre"]
    assert config.groups[0].masks.rule == masks.rule
    assert config.groups[2].masks.max_hole_ratio == 0.3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"buckets": ((0.1, 0.2),)}, "decides buckets"),
        ({"image_size_px": 64}, "decides image_size_px"),
        ({"samples": 2}, "decides samples"),
        ({"masks": MaskConfig(recipe="box")}, "only folder, published_set, polarity"),
    ],
)
def test_what_a_protocol_decides_cannot_be_given_beside_it(changes, complaint):
    with pytest.raises(UserError, match=complaint):
        EvaluationConfig(checkpoint="c", shards="s", protocol="spn-paris", **changes)


def test_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="unknown protocol 'spn'; there are: madf-places2, spn-"):
        load_protocol("spn")


def test_every_number_of_images_of_a_paper_is_in_its_description():
    for protocol in PROTOCOLS.values():
        assert all(f"{number:,}" in protocol.about for number in protocol.images), protocol.name
        assert all(not protocol.of_other_images(number) for number in protocol.images)
    silent = {name for name, protocol in PROTOCOLS.items() if not protocol.images}
    assert silent == {"pennet-places2", "deepfill-places2", "aotgan-places2"}
    said = "the paper's figures are of 2,800 or 100 images, these are of 12"
    assert PROTOCOLS["spn-prob"].of_other_images(12) == said
