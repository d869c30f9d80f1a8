import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from infill.jobs.batch_inpaint import batch_inpaint
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.serving.client import ClientConfig, InpaintClient, ServiceError
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.replica.deployment import start, stop

JOB = str(Path(__file__).parent.parent.parent / "jobs" / "batch_inpaint.py")
TILES = TilingConfig(sides_px=(64, 128), least_crop_px=64)


@pytest.fixture(scope="module")
def checkpoint(untrained) -> str:
    return untrained("spn")


@pytest.fixture(scope="module")
def url(ray_local, checkpoint):
    yield start(ServeConfig(model=checkpoint, port=0, cpus_per_replica=0.5, tiling=TILES))
    stop()


def pixels(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


@pytest.fixture
def folder(tmp_path, photographs) -> Path:
    """Four photographs and a broken file, a mask beside each but one."""
    place = tmp_path / "photos"
    (place / "deep").mkdir(parents=True)
    for index in range(4):
        size = (90 + 40 * index, 70 + 50 * index)
        name = (place / "deep" if index % 2 else place) / f"p{index}.png"
        picture = pixels(Path(photographs) / f"picture{index}.jpg")
        cv2.imwrite(str(name), cv2.resize(picture, size))
        if index < 3:
            mask = cv2.circle(np.zeros(size[::-1], np.uint8), (40, 40), 12, 255, -1)
            cv2.imwrite(str(name.with_name(f"p{index}_mask.png")), mask)
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    cv2.imwrite(str(place / "broken_mask.png"), np.full((9, 9), 255, np.uint8))
    return place


def failures(out: Path) -> dict[str, str]:
    lines = (out / "failures.jsonl").read_text().splitlines()
    return {one["image"]: one["reason"] for one in map(json.loads, lines)}


def assert_composites(folder: Path, out: Path, names: list[str]) -> None:
    for name in names:
        sent, got = pixels(folder / name), pixels(out / name)
        mask = pixels((folder / name).with_name(Path(name).stem + "_mask.png"))
        np.testing.assert_array_equal(got[mask < 128], sent[mask < 128])
        assert (got[mask > 127] != sent[mask > 127]).any()


def config_of(folder: Path, out: Path, **changes) -> BatchInferenceConfig:
    return BatchInferenceConfig(folder=str(folder), out=str(out), tiling=TILES, **changes)


@pytest.mark.parametrize("way", ["endpoint", "offline"])
def test_folder_is_filled_and_a_second_run_keeps_what_is_there(
    url, checkpoint, folder, tmp_path, way
):
    out = tmp_path / "out"
    how = {"endpoint": url} if way == "endpoint" else {"model": checkpoint}
    summary = batch_inpaint(config_of(folder, out, **how))
    assert (summary.filled, summary.kept, summary.failed) == (3, 0, 2)
    assert summary.models[0].startswith("spn@step-000000001 (")
    assert_composites(folder, out, ["p0.png", "deep/p1.png", "p2.png"])
    assert set(failures(out)) == {"broken.jpg", "deep/p3.png"}
    assert "damaged" in failures(out)["broken.jpg"]
    assert "has no mask" in failures(out)["deep/p3.png"]

    before = (out / "p0.png").stat().st_mtime_ns
    for broken in folder.glob("broken*"):
        broken.unlink()
    height, width, _ = pixels(folder / "deep" / "p3.png").shape
    mask = 255 * np.eye(height, width, dtype=np.uint8)
    cv2.imwrite(str(folder / "deep" / "p3_mask.png"), mask)
    again = batch_inpaint(config_of(folder, out, **how))
    assert (again.filled, again.kept, again.failed) == (1, 3, 0)
    assert (out / "p0.png").stat().st_mtime_ns == before
    assert not (out / "failures.jsonl").exists()


def test_ray_data_and_endpoint_predict_the_same_images_and_the_same_masks(
    url, checkpoint, photographs, tmp_path
):
    recipe = MaskConfig(recipe="box", min_hole_ratio=0.1, max_hole_ratio=0.5)
    for out, how in (("a", {"endpoint": url}), ("b", {"model": checkpoint})):
        config = config_of(
            Path(photographs), tmp_path / out, generate_masks=True, recipe=recipe, seed=3, **how
        )
        assert batch_inpaint(config).filled == 8
    for name in sorted(path.name for path in (tmp_path / "a").glob("*.png")):
        first, second = (pixels(tmp_path / out / name) for out in "ab")
        assert np.abs(first.astype(int) - second).max() <= 1
        original = pixels(Path(photographs) / Path(name).with_suffix(".jpg"))
        changed = (np.abs(first.astype(int) - original) > 8).any(axis=2).mean()
        assert 0.08 < changed < 0.5


def test_output_format_same_keeps_suffix_and_mask_folder_is_read(url, photographs, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for index in range(8):
        mask = np.full((96, 128), 255, np.uint8)
        mask[20:40, 30:60] = 0
        cv2.imwrite(str(masks / f"picture{index}.png"), mask)
    config = config_of(
        Path(photographs),
        tmp_path / "out",
        endpoint=url,
        masks=str(masks),
        mask_polarity="black",
        output_format="same",
    )
    assert batch_inpaint(config).filled == 8
    first = tmp_path / "out" / "picture0.jpg"
    assert first.read_bytes().startswith(b"\xff\xd8\xff")
    assert pixels(first).shape == (96, 128, 3)


def test_masks_and_results_inside_the_folder_are_no_images_and_a_second_run_is_the_same(
    url, photographs, tmp_path
):
    pictures = tmp_path / "pictures"
    (pictures / "masks").mkdir(parents=True)
    for index in range(3):
        (pictures / f"p{index}.jpg").write_bytes(
            (Path(photographs) / f"picture{index}.jpg").read_bytes()
        )
        mask = cv2.circle(np.zeros((96, 128), np.uint8), (40, 40), 12, 255, -1)
        cv2.imwrite(str(pictures / "masks" / f"p{index}.png"), mask)
    config = config_of(
        pictures,
        pictures / "out",
        endpoint=url,
        masks=str(pictures / "masks"),
        output_format="same",
    )
    first, second = batch_inpaint(config), batch_inpaint(config)
    assert (first.filled, first.kept, first.failed) == (3, 0, 0)
    assert (second.filled, second.kept, second.failed) == (0, 3, 0)
    before = sorted(pictures.rglob("*"))
    with pytest.raises(UserError, match="is the folder of the images"):
        batch_inpaint(config_of(pictures, pictures, endpoint=url, masks=config.masks))
    assert sorted(pictures.rglob("*")) == before


def test_formats_that_shards_take_are_filled_and_others_are_counted(
    url, photographs, tmp_path, capsys
):
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    for folder in (pictures, masks):
        folder.mkdir()
    picture = pixels(Path(photographs) / "picture0.jpg")
    hole = cv2.circle(np.zeros(picture.shape[:2], np.uint8), (40, 40), 12, 255, -1)
    for name, kind in (("a", "tiff"), ("b", "bmp"), ("c", "png"), ("d", "gif")):
        values = picture.astype(np.uint16) * 257 if name == "c" else picture
        cv2.imwrite(str(pictures / f"{name}.{kind}"), values)
        cv2.imwrite(str(masks / f"{name}.{'tif' if name == 'b' else 'png'}"), hole)
    (pictures / "e.jxl").write_bytes(b"")
    config = config_of(
        pictures, tmp_path / "out", endpoint=url, masks=str(masks), output_format="same"
    )
    assert (summary := batch_inpaint(config)).filled == 4, summary
    assert "passed over: 1 file .jxl" in capsys.readouterr().out
    for name in "abc":
        filled = pixels(tmp_path / "out" / f"{name}.png")
        np.testing.assert_array_equal(filled[hole == 0], picture[hole == 0])


def test_near_miss_of_a_mask_is_named_in_the_failures(url, photographs, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes((Path(photographs) / "picture0.jpg").read_bytes())
    cv2.imwrite(str(pictures / "a-mask.png"), np.eye(96, 128, dtype=np.uint8) * 255)
    batch_inpaint(config_of(pictures, tmp_path / "out", endpoint=url))
    reason = failures(tmp_path / "out")["a.jpg"]
    assert "there is a-mask.png, which would be its mask as a_mask.png" in reason


@pytest.mark.parametrize("way", ["endpoint", "offline"])
def test_mask_rule_reads_labels_and_transparency(url, checkpoint, photographs, tmp_path, way):
    how = {"endpoint": url} if way == "endpoint" else {"model": checkpoint}
    pictures, labels, layers = (tmp_path / name for name in ("pictures", "labels", "layers"))
    for folder in (pictures, labels, layers):
        folder.mkdir()
    (pictures / "a.jpg").write_bytes((Path(photographs) / "picture0.jpg").read_bytes())
    hole = np.zeros((96, 128), np.uint8)
    hole[20:40, 30:60] = 1
    cv2.imwrite(str(labels / "a.png"), hole)
    two_paints = np.where(np.arange(128) < 45, 0, 90).astype(np.uint8) * hole
    cv2.imwrite(str(layers / "a.png"), np.dstack([two_paints] * 3 + [255 * hole]))
    found = []
    for masks, rule in ((labels, {"mask_threshold": 0}), (layers, {"mask_channel": "alpha"})):
        plain = tmp_path / f"plain-{masks.name}"
        refused = batch_inpaint(config_of(pictures, plain, masks=str(masks), **how))
        assert (refused.filled, refused.failed) == (0, 1)
        assert next(iter(rule)) in failures(plain)["a.jpg"]
        out = tmp_path / f"out-{masks.name}"
        assert batch_inpaint(config_of(pictures, out, masks=str(masks), **rule, **how)).filled == 1
        found.append((out / "a.png").read_bytes())
        with pytest.raises(UserError, match=f"another {next(iter(rule))}"):
            batch_inpaint(config_of(pictures, out, masks=str(masks), **how))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"endpoint": "http://127.0.0.1:9"}, "no inpainting service answers at http://127"),
        ({"model": "/nothing/here"}, "is not a checkpoint"),
        ({"folder": "/nothing/here"}, "there is no folder /nothing/here"),
        ({"masks": "/nothing/m.png"}, "there is no mask /nothing/m.png"),
    ],
)
def test_mistakes_end_in_a_sentence(ray_local, checkpoint, folder, tmp_path, changes, sentence):
    values = {"folder": str(folder), "out": str(tmp_path / "out"), "model": checkpoint, **changes}
    with pytest.raises(UserError, match=sentence):
        batch_inpaint(BatchInferenceConfig(**values))


def test_a_shard_set_of_which_nothing_is_filled_has_no_next_command(
    ray_local, checkpoint, shards, tmp_path, run_job
):
    words = (f"{shards}/test", tmp_path / "filled", "--model", checkpoint)
    done = run_job("batch_inpaint", *words)
    assert done.returncode == 1
    assert "could not be filled; see " in done.stderr
    assert "next:" not in done.stdout
    done = run_job("batch_inpaint", words[0], tmp_path / "other", *words[2:], "--generate-masks")
    assert done.stdout.endswith(
        f"next:\n  python jobs/inspect_shards.py --shards {tmp_path}/other\n"
    )


def test_other_settings_do_not_mix_in_one_output_folder(url, folder, tmp_path):
    batch_inpaint(config_of(folder, tmp_path / "out", endpoint=url))
    with pytest.raises(UserError, match="holds composites with another mode .*resize"):
        batch_inpaint(config_of(folder, tmp_path / "out", endpoint=url, mode="resize"))


def test_two_pictures_of_one_name_are_refused(url, folder, tmp_path):
    cv2.imwrite(str(folder / "p0.jpg"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"p0.jpg and p0.png would both become p0.png"):
        batch_inpaint(config_of(folder, tmp_path / "out", endpoint=url))


def test_command_that_was_killed_resumes_where_it_stopped(url, photographs, tmp_path, run_job):
    source, out = tmp_path / "many", tmp_path / "out"
    source.mkdir()
    for index in range(60):
        name = Path(photographs) / f"picture{index % 8}.jpg"
        (source / f"copy{index:02d}.jpg").write_bytes(name.read_bytes())
    words = [str(source), str(out), "--endpoint", url, "--generate-masks", "--concurrency", "2"]
    command = [sys.executable, JOB, *words]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("copy*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    there = len(list(out.glob("copy*.png")))
    assert 5 <= there < 60
    done = run_job("batch_inpaint", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{60 - there} filled by spn@")
    assert f"{there} kept, 0 failed" in done.stdout
    results = sorted(out.glob("copy*.png"))
    assert len(results) == 60
    assert all(pixels(path).shape == (96, 128, 3) for path in results)


def test_client_raises_the_service_s_own_sentence(url):
    with (
        InpaintClient(ClientConfig(url=url)) as client,
        pytest.raises(ServiceError, match=r"not an image of a known format.*\(unsupported_image\)"),
    ):
        client.inpaint(b"image", b"mask")
    assert httpx.get(f"{url}/healthz").status_code == 200
