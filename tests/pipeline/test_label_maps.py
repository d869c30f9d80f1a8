"""Label maps from a folder to shards, batches, training, evaluation, and where they are refused."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infill.models.deepgin.config import DeepGINConfig
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import EvaluationConfig
from infill.pipeline.evaluation.scorer import Scorer
from infill.pipeline.images import RejectedError, decode_sample
from infill.pipeline.inference import load
from infill.pipeline.loading import BatchConfig, BatchStream, InpaintingDataset, ray_loader
from infill.pipeline.loading.prefetch import PrefetchLoader, ThreadPool
from infill.pipeline.loading.worker_context import WorkerShare
from infill.pipeline.manifest import read_manifest
from infill.pipeline.masks import MaskConfig
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.sharding.config import as_saved_now, content_settings, identity
from infill.pipeline.sharding.samples import samples_of
from infill.pipeline.sharding.verify import check_shard
from infill.pipeline.training import TrainConfig, train

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255], [90, 90, 90]], np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def colours_of(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    random = np.random.default_rng(number)
    return COLOURS[random.integers(0, 4, (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)]


@pytest.fixture(scope="module")
def labelled(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard twelve photographs that equal their label maps, which lie in a folder among them."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("photos", "labelled"))
    (source / "labels" / "b").mkdir(parents=True)
    (source / "a" / "b").mkdir(parents=True)
    for number in range(12):
        pixels = png(colours_of(number))
        (source / "a" / "b" / f"p{number}.png").write_bytes(pixels)
        if number != 5:
            (source / "labels" / "b" / f"p{number}.png").write_bytes(pixels)
    make_shards(
        ShardConfig(
            source=str(source),
            labels=str(source / "labels"),
            out=str(out),
            splits="shares",
            val_share=0.2,
            test_share=0.2,
        ),
        lambda line: None,
    )
    return out


def test_label_maps_are_stored_beside_the_images_and_named_by_the_manifest(labelled: Path) -> None:
    manifests = [read_manifest(str(labelled / split)) for split in ("train", "val", "test")]
    found = [bad for manifest in manifests for bad in manifest.quarantined]
    assert [(bad.source, bad.reason.split(" in ")[0]) for bad in found] == [
        ("a/b/p5.png", "has no label map p5.png")
    ]
    assert sum(len(manifest) for manifest in manifests) == 11
    [tar] = (labelled / "train").glob("*.tar")
    row = manifests[0].row(0)
    with tarfile.open(tar) as members:
        assert members.getnames()[:3] == [
            f"{row['key']}{end}" for end in (".png", ".labels.png", ".json")
        ]
        stored = members.extractfile(f"{row['key']}.labels.png").read()  # type: ignore[union-attr]
    at = row["label_offset"]
    assert tar.read_bytes()[at : at + row["label_size"]] == stored
    number = int(row["key"].rpartition("p")[2])
    np.testing.assert_array_equal(decode_sample(stored), colours_of(number))


def test_damage_of_a_label_map_is_found(labelled: Path, tmp_path: Path) -> None:
    manifest = read_manifest(str(labelled / "train"))
    assert check_shard(manifest, 0) == ""
    data = bytearray(Path(manifest.shard_location(0)).read_bytes())
    data[manifest.row(0)["label_offset"] + 40] ^= 255
    (tmp_path / manifest.shards[0].name).write_bytes(data)
    what = check_shard(replace(manifest, location=str(tmp_path)), 0)
    assert what == f"has 1 damaged samples, the first {manifest.row(0)['key']}"


def test_label_maps_are_cut_and_resized_with_their_images_and_keep_their_colours() -> None:
    pixels = colours_of(1)
    config = ShardConfig(resize_short_side_px=72, crop_size_px=36, min_side_px=1, format="png")
    samples = list(samples_of("a", png(pixels), config, png(pixels)))
    assert len(samples) == 2 * 2
    for sample in samples:
        assert sample.labels is not None
        image, labels = decode_sample(sample.data), decode_sample(sample.labels)
        assert image is not None
        assert labels is not None
        assert {tuple(c) for c in labels.reshape(-1, 3)} <= {tuple(c) for c in COLOURS}
        assert (np.abs(image.astype(int) - labels).max(2) < 64).mean() > 0.6  # the same places


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (png(colours_of(1, 96, 96)), "its label map is 96 x 96 px, the image is 128 x 96 px"),
        (png(np.zeros((96, 128), np.uint16)), "its label map: has more than 8 bits"),
        (b"GIF", "its label map: "),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(labels: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        list(samples_of("a", png(colours_of(1)), ShardConfig(), labels))


def test_grey_label_maps_become_three_equal_channels() -> None:
    classes = np.arange(96 * 128, dtype=np.uint32).reshape(96, 128) % 150
    [sample] = samples_of("a", png(colours_of(1)), ShardConfig(), png(classes.astype(np.uint8)))
    assert sample.labels is not None
    np.testing.assert_array_equal(decode_sample(sample.labels), classes[..., None].repeat(3, 2))


def test_shards_without_label_maps_are_those_of_earlier_releases() -> None:
    settings = content_settings(ShardConfig(source="/x"))
    before = {name: value for name, value in settings.items() if name != "labels"}
    assert identity(ShardConfig(source="/x")) == {**before, "source": None}
    assert as_saved_now(before) == settings
    labelled = [identity(ShardConfig(labels=folder)) for folder in ("/x", "/y")]
    assert labelled[0] == labelled[1] != identity(ShardConfig())


VIEW = {"image_size_px": 48, "batch_size": 6, "masks": MaskConfig(recipe="box"), "label_maps": True}


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_label_maps_take_the_crops_flips_and_turns_of_their_images(
    labelled: Path, crop: str
) -> None:
    location = str(labelled / "train")
    config = BatchConfig(shards=location, crop=crop, quarter_turns=True, **VIEW)  # type: ignore[arg-type]
    dataset = InpaintingDataset(config, read_manifest(location))
    seen = set()
    for epoch in range(8):
        sample = dataset.make(1, epoch)
        assert sample.labels is not None
        np.testing.assert_array_equal(sample.labels, sample.pixels)
        seen.add(sample.pixels.tobytes())
    assert len(seen) > 2


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": "squash"},
        {"crop": "subsample"},
        {"crop": "centre_square"},
        {"resize_short_side_px": 64},
        {"random_resize": 1.7},
        {"image_size_px": 160, "enlarge_small_images": True},
    ],
    ids=str,
)
def test_resized_label_maps_keep_their_colours_and_their_places(
    labelled: Path, changes: dict[str, object]
) -> None:
    location = str(labelled / "train")
    config = BatchConfig(shards=location, colour_jitter=0.0, **{**VIEW, **changes})  # type: ignore[arg-type]
    sample = InpaintingDataset(config, read_manifest(location)).make(0, 3)
    assert sample.labels is not None
    assert {tuple(c) for c in sample.labels.reshape(-1, 3)} <= {tuple(c) for c in COLOURS}
    near = np.abs(sample.pixels.astype(int) - sample.labels).max(2) < 64
    assert near.mean() > 0.6


def test_every_loader_makes_the_same_label_maps(labelled: Path) -> None:
    config = BatchConfig(shards=str(labelled / "train"), masks_per_image=3, **VIEW)  # type: ignore[arg-type]
    with BatchStream(config) as stream:
        batches = [next(stream) for _ in range(4)]
    share = WorkerShare(config=config, rank=0, world_size=1)
    for step, batch in enumerate(batches):
        assert batch.labels is not None
        assert batch.labels.dtype == torch.float32
        assert torch.equal(batch.labels, batch.image)
        made = ray_loader.make_slice({"id": np.array([step])}, share, 0)
        np.testing.assert_array_equal(made["labels"], made["pixels"])
        levels = ((batch.labels + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
        np.testing.assert_array_equal(made["labels"][0], levels.numpy())


def test_bytes_for_a_gpu_hold_the_same_label_maps(labelled: Path) -> None:
    config = BatchConfig(shards=str(labelled / "train"), **VIEW)  # type: ignore[arg-type]
    share = WorkerShare(config=config, rank=0, world_size=1)
    loader = PrefetchLoader(share, 0, ThreadPool, packed=True)
    packed = next(iter(loader.__next__, None))
    loader.close()
    batch = packed.to("cpu")
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.image)


def test_sets_without_label_maps_and_tars_are_refused(shards: str, tmp_path: Path) -> None:
    location = f"{shards}/train"
    config = BatchConfig(shards=location, **VIEW)  # type: ignore[arg-type]
    assert not read_manifest(location).has_labels
    with pytest.raises(UserError, match=r"has no label maps: make the set with .* --labels FOLDER"):
        InpaintingDataset(config, read_manifest(location))
    with pytest.raises(UserError, match="--data.label-maps needs a shard set"):
        BatchStream(replace(config, shards=f"{tmp_path}/0.tar"))
    with pytest.raises(UserError, match="label_maps needs finished shards"):
        replace(config, source="bundled")
    with pytest.raises(UserError, match="labels is the source itself"):
        make_shards(ShardConfig(source=location, labels=location, out=str(tmp_path)))


def test_a_guided_network_is_trained_validated_evaluated_and_refused_without_label_maps(
    labelled: Path, tmp_path: Path
) -> None:
    model = replace(DeepGINConfig.tiny(), segmentation_guided=True)
    data = BatchConfig(
        shards=str(labelled), image_size_px=48, batch_size=2, masks=MaskConfig(recipe="box")
    )
    with pytest.raises(ValueError, match=r"learns from label maps: give --data.label-maps"):
        TrainConfig(model=model, data=data)
    with pytest.raises(ValueError, match="data.label_maps reads label maps, which this deepgin"):
        TrainConfig(model=DeepGINConfig.tiny(), data=replace(data, label_maps=True))
    config = TrainConfig(
        model=model,
        data=replace(data, label_maps=True),
        storage=str(tmp_path / "run"),
        steps=2,
        num_workers=0,
        validation_samples=2,
    )
    result = train(config, lambda line: None)
    assert result.scores["hole_psnr"] > 0
    evaluation = EvaluationConfig(
        checkpoint=result.checkpoint,
        shards=str(labelled / "test"),
        masks=MaskConfig(recipe="box"),
        buckets=((0.0, 1.0),),
    )
    scorer = Scorer(evaluation, image_size_px=48, parts=str(tmp_path))
    filled = scorer.fill([0])
    guided = scorer.predictor.predict(filled.images, filled.holes, filled.images)
    np.testing.assert_array_equal(filled.predictions["deepgin"], guided)  # images equal label maps
    with pytest.raises(UserError, match=r"with the help of a label map .* none is given here"):
        load(result.checkpoint)
