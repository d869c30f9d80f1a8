"""What a job says if its local paths are not on the nodes that work for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from node_processes import free_ports, hiding

JOBS = Path(__file__).parents[2] / "jobs"


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
    two_nodes: tuple[str, Path],
    jobs_in_one_process: Callable[..., Any],
    photographs: str,
    tmp_path: Path,
) -> None:
    address, own = two_nodes

    def command(line: str) -> list[str]:
        name, *words = line.split()
        return [str(JOBS / f"{name}.py"), *words]

    on_one_machine = jobs_in_one_process(os.environ)
    shutil.copytree(photographs, tmp_path / "pictures")
    make = "make_shards folder --photographs-per-shard 4 --splits shares --test-share 0.2"
    status, said = on_one_machine(command(f"{make} --source pictures --out shards"))
    assert status == 0, said
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
    joined = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    on_two_nodes = jobs_in_one_process({**os.environ, **joined})
    for words, hidden in cases:
        status, said = on_two_nodes(command(words))
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert (len(errors), status) == (1, 1), (words, said)
        assert f"does not see {own}/{hidden}" in errors[0], words
        assert "give a folder that all nodes share" in errors[0]
