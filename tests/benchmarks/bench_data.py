"""Batches and shards: rates beside the bare decoder and beside what others offer.

PHOTOGRAPHS=/data/bsds500 make bench ONLY=data

Without ``PHOTOGRAPHS``, a folder, the photographs that installed packages carry are cut into
pieces. Shards are also made with img2dataset where ``IMG2DATASET`` names its program, which has
dependencies of its own.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from pages import machine, table, write_section

from pipeline.manifest import read_manifest

ROOT = Path(__file__).parents[2]
ONE_LOADER = Path(__file__).with_name("one_loader.py")
PHOTOGRAPHS = os.environ.get("PHOTOGRAPHS", "")
IMG2DATASET = os.environ.get("IMG2DATASET", shutil.which("img2dataset") or "")
IMAGES = 1500
ROUNDS = 3
CORES = (1, 2)


def shards_of(folder: Path) -> str:
    """Shard the photographs once; return the set's folder."""
    source = ["folder", "--source", PHOTOGRAPHS] if PHOTOGRAPHS else ["bundled"]
    words = [*source, "--out", str(folder), "--splits", "shares"]
    words += ["--val-share", "0", "--test-share", "0", "--photographs-per-shard", "50"]
    if not PHOTOGRAPHS:
        words += ["--crop-size-px", "320", "--crop-stride-px", "160"]
    job("make_shards", *words)
    return str(folder / "train")


def job(name: str, *words: str) -> str:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def images_per_s(way: str, shards: str, cores: int) -> float:
    """Measure one way on so many cores."""
    used = sorted(os.sched_getaffinity(0))[:cores]
    command = [sys.executable, str(ONE_LOADER), way, shards, str(cores), str(IMAGES)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, used),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer["images_per_s"]


def test_batches(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "set")
    ways = [("ours", cores) for cores in CORES]
    ways += [(way, cores) for way in ("webloader", "ray-data") for cores in CORES]
    seen: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):  # in turns, so that a slow minute meets all alike
        for way, cores in [("floor", 1), ("pillow", 1), *ways]:
            seen.setdefault((way, cores), []).append(images_per_s(way, shards, cores))
            print(way, cores, f"{seen[way, cores][-1]:.0f} images/s", flush=True)
    rates = {case: median(found) for case, found in seen.items()}
    floor = rates["floor", 1]
    rows = [
        [way, str(cores), f"{rates[way, cores]:.0f}", f"{rates[way, cores] / floor / cores:.0%}"]
        + [f"{rates['ours', cores] / rates[way, cores]:.2f}x"]
        for way, cores in ways
    ]
    manifest = read_manifest(shards)
    columns = (manifest.samples[name].to_numpy() for name in ("width_px", "height_px"))
    width, height = (round(column.mean()) for column in columns)
    text = f"""
{table(["Loader", "Cores", "Images/s", "Of the floor", "Ours is faster by"], rows)}

The floor on one core: {floor:.0f} images/s (OpenCV); Pillow decodes alone at
{rates["pillow", 1]:.0f}. {len(manifest)} JPEGs of about {width} x {height} px. {machine()}.
"""
    write_section("batches", text)


def draw_small_photographs(folder: Path, count: int) -> None:
    """Write many small JPEGs, each different."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    base = random.integers(0, 256, (256, 256, 3), np.uint8)
    base = cv2.GaussianBlur(base, (0, 0), 3)
    for index in range(count):
        if index % 1000 == 0:
            place = folder / f"{index // 1000:04d}"
            place.mkdir()
        top, left = random.integers(0, 192, 2)
        window = base[top : top + 64, left : left + 64].copy()
        window[:4, :4] = random.integers(0, 256, (4, 4, 3))
        cv2.imwrite(str(place / f"{index:06d}.jpg"), window)


def peak_of(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds, and MiB the largest child process held."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start, resource.getrusage(
        resource.RUSAGE_CHILDREN
    ).ru_maxrss / 1024


def test_growth(tmp_path: Path) -> None:
    rows = []
    for count in (1_000, 10_000, 100_000):
        folder = tmp_path / f"{count}"
        draw_small_photographs(folder / "photographs", count)
        words = ["folder", "--source", str(folder / "photographs"), "--out", str(folder / "set")]
        words += ["--splits", "shares", "--val-share", "0", "--test-share", "0"]
        seconds, mib = peak_of(lambda words=words: job("make_shards", *words))
        rows.append([f"{count:,}", f"{seconds:.0f}", f"{count / seconds:.0f}", f"{mib:.0f}"])
        print(*rows[-1], flush=True)
    header = ["Photographs of 64 px", "Seconds, start of Ray included", "Per second"]
    header += ["Largest process, MiB"]
    write_section("growth", f"{table(header, rows)}\n\n{machine()}.")


def test_sharding(tmp_path: Path) -> None:
    photographs = copies(tmp_path / "photographs", 2_000)
    count = sum(1 for _ in photographs.rglob("*.jpg"))
    out = tmp_path / "ours"
    words = ["folder", "--source", str(photographs), "--out", str(out), "--splits", "shares"]
    words += ["--val-share", "0", "--test-share", "0", "--format", "jpg"]
    words += ["--resize-short-side-px", "256"]
    ours, _ = peak_of(lambda: job("make_shards", *words))
    rows = [["ours", f"{ours:.1f}", f"{count / ours:.0f}", ""]]
    if IMG2DATASET:
        listed = tmp_path / "list.txt"
        listed.write_text(
            "".join(f"file://{path}\n" for path in sorted(photographs.rglob("*.jpg")))
        )
        command = [IMG2DATASET, f"--url_list={listed}", f"--output_folder={tmp_path / 'theirs'}"]
        command += ["--image_size=256", "--resize_mode=keep_ratio", "--output_format=webdataset"]
        command += [f"--processes_count={len(os.sched_getaffinity(0))}", "--thread_count=8"]
        command += ["--number_sample_per_shard=1000", "--encode_quality=95"]
        theirs, _ = peak_of(lambda: subprocess.run(command, check=True, capture_output=True))
        made = len(list((tmp_path / "theirs").glob("*.tar")))
        assert made > 0
        ratio = f"{theirs / ours:.2f}x"
        rows.append(["img2dataset", f"{theirs:.1f}", f"{count / theirs:.0f}", ratio])
    else:
        rows.append(["img2dataset", "not measured", "", ""])
    header = ["Sharding", "Seconds, start included", "Photographs/s", "Ours is faster by"]
    text = f"{table(header, rows)}\n\n{count:,} JPEGs to a short side of 256 px. {machine()}."
    write_section("sharding", text)


def copies(folder: Path, count: int) -> Path:
    """Lay out so many different photographs: those given, a byte changed where they repeat."""
    folder.mkdir(parents=True)
    if PHOTOGRAPHS:
        found = sorted(path for path in Path(PHOTOGRAPHS).rglob("*.jpg"))
        data = [path.read_bytes() for path in found]
    else:
        random = np.random.default_rng(0)
        noise = [cv2.GaussianBlur(random.integers(0, 256, (480, 640, 3), np.uint8), (0, 0), 2)]
        data = [cv2.imencode(".jpg", noise[0])[1].tobytes()]
    for index in range(count):
        # What follows the end of a JPEG is ignored; it makes each file another one.
        content = data[index % len(data)] + index.to_bytes(4, "little")
        (folder / f"{index:06d}.jpg").write_bytes(content)
    return folder
