"""Batches and shards: rates beside the bare decoder and beside what others offer.

PHOTOGRAPHS=/data/bsds500 make bench ONLY=data

Without ``PHOTOGRAPHS``, a folder, the photographs that installed packages carry are cut into
pieces. Shards are also made with img2dataset where ``IMG2DATASET`` names its program, which has
dependencies of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from conditions import turns
from pages import machine, table, write_section

from infill.pipeline.manifest import read_manifest

ROOT = Path(__file__).parents[2]
ONE_LOADER = Path(__file__).with_name("one_loader.py")
PHOTOGRAPHS = os.environ.get("PHOTOGRAPHS", "")
IMG2DATASET = os.environ.get("IMG2DATASET", shutil.which("img2dataset") or "")
IMAGES = 3000
CORES = (1, 2)
BARE = ("floor", "pillow")
SHARDED = (2_000, 20_000)


def shards_of(folder: Path) -> str:
    """Shard the photographs once; return the set's folder."""
    source = ["folder", "--source", PHOTOGRAPHS] if PHOTOGRAPHS else ["bundled"]
    words = [*source, "--out", str(folder), "--splits", "shares"]
    words += ["--val-share", "0", "--test-share", "0", "--photographs-per-shard", "50"]
    if not PHOTOGRAPHS:
        words += [
            "--crop-size-px",
            "320",
            "--crop-stride-px",
            "160",
            "--max-quarantined-share",
            "0.5",
        ]
    job("make_shards", *words)
    return str(folder / "train")


def job(name: str, *words: str) -> str:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def images_per_s(way: str, shards: str, cores: int) -> float:
    """Measure one way on so many cores; a bare loop runs once on each of them."""
    used = sorted(os.sched_getaffinity(0))[:cores]
    if way not in BARE:
        return started(way, shards, used).images_per_s()
    return sum(run.images_per_s() for run in [started(way, shards, [core]) for core in used])


class Run:
    """One way to batches in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def images_per_s(self) -> float:
        """Wait for its result."""
        said, _ = self.process.communicate()
        assert self.process.returncode == 0
        answer: dict[str, float] = json.loads(said.splitlines()[-1])
        return answer["images_per_s"]


def started(way: str, shards: str, cores: list[int]) -> Run:
    command = [sys.executable, str(ONE_LOADER), way, shards, str(len(cores)), str(IMAGES)]
    return Run(
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    )


def test_batches(tmp_path: Path) -> None:
    shards = shards_of(tmp_path / "set")
    ways = [(way, cores) for way in ("ours", "torch", "webloader", "ray-data") for cores in CORES]
    seen: dict[tuple[str, int], list[float]] = {}
    for way, cores in turns([("pillow", 1), *(("floor", cores) for cores in CORES), *ways]):
        seen.setdefault((way, cores), []).append(images_per_s(way, shards, cores))
        print(way, cores, f"{seen[way, cores][-1]:.0f} images/s", flush=True)
    rates = {case: median(found) for case, found in seen.items()}
    rows = [
        [way, str(cores), f"{rates[way, cores]:.0f}"]
        + [f"{rates[way, cores] / rates['floor', cores]:.0%}"]
        + [f"{rates['ours', cores] / rates[way, cores]:.2f}x"]
        for way, cores in ways
    ]
    manifest = read_manifest(shards)
    columns = (manifest.samples[name].to_numpy() for name in ("width_px", "height_px"))
    width, height = (round(column.mean()) for column in columns)
    text = f"""
{table(["Loader", "Cores", "Images/s", "Of the floor", "Ours is faster by"], rows)}

The floor: {rates["floor", 1]:.0f} images/s on one core, {rates["floor", 2]:.0f} by a bare loop on
each of two at once (OpenCV); Pillow decodes alone at {rates["pillow", 1]:.0f}.
{len(manifest)} JPEGs of about {width} x {height} px. {machine()}.
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


def seconds_of(command: list[str]) -> float:
    """Run a command and return how long it took, its start included."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.perf_counter() - start


def peaks_of(command: list[str]) -> tuple[float, float, float]:
    """Run a job; return seconds, and MiB that the driver and the largest of its workers held."""
    before = {process.name for process in Path("/proc").glob("[0-9]*")}
    start = time.perf_counter()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    most = {"driver": 0.0, "worker": 0.0}
    while driver.poll() is None:
        for process in Path("/proc").glob("[0-9]*"):
            words = read_or_nothing(process / "cmdline")
            role = "driver" if process.name == str(driver.pid) else "worker"
            if process.name not in before and (role == "driver" or words.startswith("ray::")):
                most[role] = max(most[role], peak_mib(process))
        time.sleep(0.1)
    assert driver.returncode == 0
    return time.perf_counter() - start, most["driver"], most["worker"]


def read_or_nothing(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def peak_mib(process: Path) -> float:
    """Return the most memory a process has held so far."""
    for line in read_or_nothing(process / "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def sharding(source: Path, out: Path, *words: str) -> list[str]:
    job = [sys.executable, str(ROOT / "jobs" / "make_shards.py"), "folder"]
    shares = ["--splits", "shares", "--val-share", "0", "--test-share", "0"]
    return [*job, "--source", str(source), "--out", str(out), *shares, *words]


def test_growth(tmp_path: Path) -> None:
    rows = []
    for count in (1_000, 10_000, 100_000):
        folder = tmp_path / f"{count}"
        draw_small_photographs(folder / "photographs", count)
        seconds, driver, worker = peaks_of(sharding(folder / "photographs", folder / "set"))
        rate = f"{count / seconds:.0f}"
        rows.append([f"{count:,}", f"{seconds:.0f}", rate, f"{driver:.0f}", f"{worker:.0f}"])
        print(*rows[-1], flush=True)
        shutil.rmtree(folder)
    header = ["Photographs of 64 px", "Seconds, start of Ray included", "Per second"]
    header += ["Driver, MiB", "Largest worker, MiB"]
    write_section("growth", f"{table(header, rows)}\n\n{machine()}.")


def test_sharding(tmp_path: Path) -> None:
    rows, ours, theirs = [], dict[int, float](), dict[int, float]()
    for count in SHARDED:
        photographs = copies(tmp_path / f"{count}", count)
        words = ["--format", "jpg", "--resize-short-side-px", "256"]
        ours[count] = seconds_of(sharding(photographs, tmp_path / "ours", *words))
        if IMG2DATASET:
            theirs[count] = seconds_of(img2dataset(photographs, tmp_path))
        rows.append(compared(f"{count:,}", count, ours[count], theirs.get(count)))
        print(*rows[-1], flush=True)
        for name in ("ours", "theirs", f"{count}"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
    few, many = SHARDED
    further = [found[many] - found[few] if found else None for found in (ours, theirs)]
    rows.append(compared(f"{many - few:,} further ones", many - few, *further))
    header = ["JPEGs", "Ours, s", "Per second", "img2dataset, s", "Per second", "Ours is faster by"]
    text = f"{table(header, rows)}\n\nTo a short side of 256 px, starts included. {machine()}."
    write_section("sharding", text)


def compared(name: str, count: int, ours: float, theirs: float | None) -> list[str]:
    row = [name, f"{ours:.1f}", f"{count / ours:.0f}"]
    if theirs is None:
        return [*row, "not measured", "", ""]
    return [*row, f"{theirs:.1f}", f"{count / theirs:.0f}", f"{theirs / ours:.2f}x"]


def img2dataset(photographs: Path, folder: Path) -> list[str]:
    """Return the command that does the same with as many processes as there are cores."""
    listed = folder / "list.txt"
    listed.write_text("".join(f"file://{path}\n" for path in sorted(photographs.rglob("*.jpg"))))
    command = [IMG2DATASET, f"--url_list={listed}", f"--output_folder={folder / 'theirs'}"]
    command += ["--image_size=256", "--resize_mode=keep_ratio", "--output_format=webdataset"]
    command += [f"--processes_count={len(os.sched_getaffinity(0))}", "--thread_count=8"]
    return [*command, "--number_sample_per_shard=1000", "--encode_quality=95"]


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
