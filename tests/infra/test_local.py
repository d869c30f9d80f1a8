"""The cluster on one machine, by the page that shows it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cluster import LocalCluster
from node_processes import free_ports, hiding, inherited_environment

from infill.pipeline.serving.replica.deployment import direct_ingress

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "local" / "cluster.py"
PAGE = ROOT / "docs" / "cluster.md"
SECTION = "## A cluster on this machine"


def shown() -> list[str]:
    """Return the commands of the page's first section, line by line."""
    section = PAGE.read_text().partition(SECTION)[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    joined = (re.sub(r" \\\n +", " ", block) for block in blocks)
    return [line for block in joined for line in block.splitlines()]


def free_port() -> int:
    return free_ports(1)[0]


def parts(folder: Path) -> list[str]:
    """Return the processes that belong to the cluster of a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"INFILL_CLUSTER={folder}".encode() in (process / "environ").read_bytes()
            if marked:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def cluster(tmp_path) -> Iterator[Path]:
    """Yield a folder for a cluster, and end the rest of it."""
    yield tmp_path / "cluster"
    subprocess.run(
        [sys.executable, str(SCRIPT), "down", "--folder", str(tmp_path / "cluster")],
        check=True,
        capture_output=True,
        timeout=60,
    )


def section(said: str, name: str) -> list[dict[str, Any]]:
    """Return the JSON that was printed under a heading."""
    found: list[dict[str, Any]] = json.loads(said.partition(f"{name}\n")[2].partition("\nEND")[0])
    return found


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_page_leads_from_photographs_to_an_answer_with_no_path_between_the_nodes(
    cluster, tmp_path, in_one_shell
):
    page, port = shown(), free_port()
    replaced = {
        "make cluster": f"{sys.executable} {SCRIPT} up --folder {cluster}",
        "make cluster-down": f"{sys.executable} {SCRIPT} down --folder {cluster}",
        "source .venv/bin/activate": "true",
        "source runs/cluster/environment": f"source {cluster}/environment",
    }
    assert set(replaced) <= set(page)
    commands = [replaced.get(line, line).replace(":8000/", f":{port}/") for line in page]
    commands = [line.replace("serve.py", f"serve.py --port {port}") for line in commands]

    def insert_after(word: str, *lines: str) -> None:
        place = next(n for n, line in enumerate(commands) if word in line)
        commands[place + 1 : place + 1] = lines

    for name in ("photo", "hole"):
        picture = np.full((48, 64, 3), 99, np.uint8) if name == "photo" else np.eye(48, 64) * 255
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    listing = ["ray list nodes --format json --detail --limit 50"]
    listing += ["ray list actors --format json --detail --limit 500 -f class_name=RayTrainWorker"]
    decoding = "ray list tasks --format json --detail --limit 9999 -f name='MapBatches(make_slice)'"
    insert_after(
        "jobs/train_spn.py",
        *("echo NODES", listing[0], "echo END", "echo WORKERS", listing[1], "echo END"),
        *("echo DECODING", decoding, "echo END"),
    )
    insert_after(
        "/readyz",
        f"curl -sf -F image=@{tmp_path}/photo.png -F mask=@{tmp_path}/hole.png "
        f"http://127.0.0.1:{port}/v1/inpaint -o {tmp_path}/filled.png",
        "echo TOKENLESS $(curl -s -o /dev/null -w '%{http_code}' "
        "$RAY_API_SERVER_ADDRESS/api/jobs/)",
    )
    insert_after(
        "job stop endpoint", f"echo SERVES $(curl -s http://127.0.0.1:{port}/readyz | wc -c)"
    )

    said = in_one_shell(commands, ROOT, os.environ)

    assert len(re.findall(r"Job '\w+' succeeded", said)) == 6
    labels = {node["node_id"]: node["labels"].get("infill") for node in section(said, "NODES")}
    assert sorted(labels.values()) == ["cpu", "gpu-like", "head"]
    workers = section(said, "WORKERS")
    assert [labels[worker["node_id"]] for worker in workers] == ["gpu-like"] * 2
    # One that the training's end called off had no node yet.
    decoding = [task for task in section(said, "DECODING") if task["node_id"]]
    decoding_nodes = {labels[task["node_id"]] for task in decoding}
    assert decoding_nodes == {"cpu"}  # The workers have taken all of the others' CPUs.
    assert (tmp_path / "filled.png").read_bytes()[:4] == b"\x89PNG"
    assert "TOKENLESS 401" in said
    assert "SERVES 0" in said  # `ray job stop` ended the endpoint as Ctrl-C does.
    assert parts(cluster) == []
    assert not cluster.exists()


def test_nodes_do_not_see_each_other_s_homes(tmp_path):
    (tmp_path / "secret").write_text("of another node")
    before = hiding([tmp_path])
    if not before:
        pytest.skip("this system has no mount namespaces, so that nothing can be hidden")
    done = subprocess.run([*before, "ls", str(tmp_path)], capture_output=True, check=True)
    assert done.stdout == b""
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("what", ["up", "down"])
def test_folder_of_something_else_is_left_alone(tmp_path, what):
    (tmp_path / "thesis.txt").write_text("years of work")
    words = [sys.executable, str(SCRIPT), what, "--folder", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "does not belong to a cluster and would be removed" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_second_cluster_of_a_folder_is_refused_and_a_missing_one_ends_quietly(tmp_path):
    local = LocalCluster(tmp_path / "cluster")
    sleeping = subprocess.Popen(["sleep", "600"], env={"INFILL_CLUSTER": str(local.folder)})
    try:
        with pytest.raises(RuntimeError, match="runs already; end it with: make cluster-down"):
            local.up()
        local.down()
        assert sleeping.wait(timeout=300) != 0
    finally:
        sleeping.kill()
    local.down()


def test_nodes_do_not_inherit_another_ray(monkeypatch):
    """A Ray that serves without a proxy leaves its settings in the environment."""
    foreign = {"RAY_ADDRESS": "127.0.0.1:1", **direct_ingress(1)}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    inherited = inherited_environment()
    assert {**inherited, **foreign} == dict(os.environ)
    assert not foreign.keys() & inherited.keys()
