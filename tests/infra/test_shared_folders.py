"""What a job says if its local paths are not on the nodes that work for it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_processes import free_ports, hiding

JOBS = Path(__file__).parents[2] / "jobs"
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for program, *words in json.load(sys.stdin):
    sys.argv = [program, *words]
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as ended:
        print(f"ended: {ended.code}", file=sys.stderr, flush=True)
    else:
        print("ended: 0", file=sys.stderr, flush=True)
"""
"""A process that imports everything once; a process for each job took twice as long."""


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Run a head without CPUs and a node on which a folder is empty; yield address and folder."""
    own = tmp_path / "own"
    own.mkdir()
    before = hiding([own])
    if not before:
        pytest.skip("this system has no mount namespaces, so that nothing can be hidden")
    port, clients = map(str, free_ports(2))  # Other tests have a Ray of their own.
    address = f"127.0.0.1:{port}"
    ray = [str(Path(sys.executable).with_name("ray"))]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    processes = []

    def start(*words: str, before: list[str] | None = None) -> None:
        options = ["--block", "--disable-usage-stats", "--object-store-memory", "150000000"]
        command = [*(before or []), *ray, "start", *words, *options]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))

    try:
        head = ("--head", "--port", port, "--ray-client-server-port", clients)
        start(*head, "--num-cpus", "0", "--include-dashboard=false")
        start("--address", address, "--num-cpus", "2", before=before)
        yield address, own
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_jobs_name_what_a_node_does_not_see(
    two_nodes: tuple[str, Path], photographs: str, tmp_path: Path
) -> None:
    address, own = two_nodes

    def jobs(commands: list[str], **environment: str) -> list[list[str]]:
        """Return what each command prints as errors; the last line has its status."""
        programs = [[str(JOBS / f"{name}.py"), *words] for name, *words in map(str.split, commands)]
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_THE_OTHER],
            input=json.dumps(programs),
            env={**os.environ, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        found: list[list[str]] = [[]]
        for line in done.stderr.splitlines():
            found[-1].append(line)
            if line.startswith("ended: "):
                found.append([])
        return found[:-1]

    shutil.copytree(photographs, tmp_path / "pictures")
    make = "make_shards folder --photographs-per-shard 4 --splits shares --test-share 0.2"
    [made] = jobs([f"{make} --source pictures --out shards"])
    assert made[-1] == "ended: 0", made
    for name in ("pictures", "shards"):
        shutil.copytree(tmp_path / name, own / name)
    shutil.copytree(JOBS.parent / "pipeline" / "pretrained" / "infill-base", own / "model")
    train = "train_unet smoke --num-workers 1 --steps 2 --data.batch-size 2"
    score = "evaluate --checkpoint infill-base --num-images 2 --num-actors 1 --image-size-px 32"
    fill = "batch_inpaint {} {} --model infill-base --generate-masks"
    search = "tune unet --space lambdas --scale smoke --num-trials 1 --train.data.shards shards"
    cases = (
        (f"{train} --data.shards shards --storage {own}/run", "run/config.json"),
        (f"{train} --data.shards {own}/shards --storage run", "shards"),
        (f"{score} --shards {own}/shards/test --out scores", "shards/test"),
        (f"{score} --shards shards/test --out {own}/scores", "scores"),
        (fill.format(f"{own}/pictures", "filled"), "pictures"),
        (fill.format("pictures", f"{own}/filled"), "filled"),
        (fill.format(f"{own}/shards/test", "sets"), "shards/test"),
        (f"{search} --storage {own}/search", "search"),
        (f"serve --model {own}/model --port 0", "model"),
    )
    ended = jobs([words for words, _ in cases], RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
    for (words, hidden), said in zip(cases, ended, strict=True):
        errors = [line for line in said if line.startswith("error: ")]
        assert (len(errors), said[-1]) == (1, "ended: 1"), (words, said)
        assert f"does not see {own}/{hidden}" in errors[0], words
        assert "give a folder that all nodes share" in errors[0]
