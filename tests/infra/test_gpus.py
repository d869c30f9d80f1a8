"""The nodes with GPUs: pods that fit them, disk for shards, and Ray's own view of them."""

import email
import re
from pathlib import Path, PurePosixPath

import pytest
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from infill.pipeline.loading import BatchConfig

ROOT = Path(__file__).parents[2]
GIB = 2**30
MACHINES = {
    "c7i.4xlarge": (16, 32 * GIB, 0),
    "g6.4xlarge": (16, 64 * GIB, 1),
    "g6.8xlarge": (32, 128 * GIB, 1),
    "p5.48xlarge": (192, 2048 * GIB, 8),
}
"""CPUs, bytes of memory and GPUs of the machines, as AWS lists them."""
LOCAL_DISKS = {"p5.48xlarge": 8 * 3800 * 10**9}
"""Bytes of their own disks."""


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Gi|Ti|Mi)", text).groups()
    return int(number) * {"Mi": 2**20, "Gi": GIB, "Ti": 2**40}[unit]


def groups(objects: list[dict], *kinds: str) -> list[dict]:
    """Return the groups of workers of these kinds of objects."""
    found = [one["spec"] for one in objects if one["kind"] in kinds]
    specs = [spec.get("rayClusterConfig", spec) for spec in found]
    return [group for spec in specs for group in spec["workerGroupSpecs"]]


def container(group: dict) -> dict:
    [found] = group["template"]["spec"]["containers"]
    return found


def test_shard_cache_has_a_volume_that_the_node_is_asked_for(objects, overlay):
    cache = BatchConfig()
    for group in groups(objects, "RayCluster"):
        place = PurePosixPath(cache.cache_folder.replace("~", "/home/ray"))
        mounts = {one["name"]: one["mountPath"] for one in container(group)["volumeMounts"]}
        volumes = {one["name"]: one["emptyDir"] for one in group["template"]["spec"]["volumes"]}
        [name] = [name for name, mount in mounts.items() if place.is_relative_to(mount)]
        assert "medium" not in volumes[name], "a cache in memory"
        assert size(volumes[name]["sizeLimit"]) > cache.cache_size_gb * 1e9
        if overlay != "kind":
            asked = size(container(group)["resources"]["requests"]["ephemeral-storage"])
            assert asked > size(volumes[name]["sizeLimit"])


def test_pod_that_ends_drains_before_its_grace_is_over(objects):
    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    assert hasattr(ray_constants, name)
    [settings] = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    for group in groups(objects, "RayCluster", "RayService"):
        own = {one["name"]: one["value"] for one in container(group).get("env", ())}
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace - 30 <= float(own.get(name, settings[name])) <= grace - 10


def fits(group: dict, nodes: dict) -> bool:
    """Return whether a pod of the group starts on a node of a Terraform group."""
    spec = group["template"]["spec"]
    tolerated = {one["key"] for one in spec.get("tolerations", ())}
    if not {one["key"] for one in nodes.get("taint", ())} <= tolerated:
        return False
    capacity = {"eks.amazonaws.com/capacityType": nodes.get("capacity_type", "ON_DEMAND")}
    if not spec.get("nodeSelector", {}).items() <= capacity.items():
        return False
    asked = container(group)["resources"]["requests"]
    for machine in nodes["instance_types"]:
        cpus, memory, gpus = MACHINES[machine]
        disk = LOCAL_DISKS.get(machine, 0) or (nodes["disk_size"] - 30) * 10**9  # The system's.
        if (
            int(asked["cpu"]) >= cpus  # The system takes some.
            or size(asked["memory"]) > 0.92 * memory
            or int(asked.get("nvidia.com/gpu", 0)) > gpus
            or size(asked.get("ephemeral-storage", "0Gi")) > disk
        ):
            return False
    return True


@pytest.mark.parametrize(
    ("overlay", "wanted"),
    [
        ("gpu", {"cpu": "cpu", "gpu": "gpu", "replicas": "cpu"}),
        ("spot", {"cpu": "cpu", "gpu": "gpu_spot", "replicas": "cpu"}),
        ("gpu8", {"cpu": "cpu", "gpu8": "gpu8", "replicas": "cpu"}),
        ("gpu-endpoint", {"cpu": "cpu", "gpu": "gpu", "replicas": "gpu"}),
    ],
    indirect=["overlay"],
)
def test_pods_start_on_the_node_groups_of_terraform(objects, terraform, wanted):
    nodes = terraform["aws_eks_node_group"]
    for group in groups(objects, "RayCluster", "RayService"):
        name = wanted[group["groupName"]]
        assert fits(group, nodes[name]), f"{group['groupName']} on {name}"
        most = int(nodes[name]["scaling_config"][0]["max_size"])
        assert group["maxReplicas"] <= most


def test_pods_for_gpus_start_nowhere_else(objects, terraform):
    cpu = terraform["aws_eks_node_group"]["cpu"]
    on_demand = terraform["aws_eks_node_group"]["gpu"]
    for group in groups(objects, "RayCluster", "RayService"):
        asks = "nvidia.com/gpu" in container(group)["resources"]["limits"]
        assert asks == (not fits(group, cpu))
        if "spot" in str(group["template"]["spec"].get("nodeSelector")).lower():
            assert not fits(group, on_demand)


def test_every_node_group_has_disk_and_says_so_while_it_has_no_node(terraform):
    text = (ROOT / "infra/aws/terraform/eks.tf").read_text()
    said = dict(
        re.findall(r'(\w+) += \{ group = aws_eks_node_group\.\w+\[0\], size = "(\w+)"', text)
    )
    assert set(said) == set(terraform["aws_eks_node_group"])
    for name, nodes in terraform["aws_eks_node_group"].items():
        [local] = [LOCAL_DISKS.get(nodes["instance_types"][0], 0)]
        assert size(said[name]) <= (local or nodes["disk_size"] * 10**9)
        assert bool(local) == ("launch_template" in nodes)  # Its disks are not EKS's matter.
    [tag] = terraform["aws_autoscaling_group_tag"]["disks"]["tag"]
    assert tag["key"].endswith("node-template/resources/ephemeral-storage")


def test_machines_with_eight_gpus_give_their_own_disks_to_pods(terraform):
    template = terraform["aws_launch_template"]["gpu8"]
    [name] = re.findall(r"\$\{path\.module\}/([\w.-]+)", template["user_data"])
    text = (ROOT / "infra/aws/terraform" / name).read_text()
    [part] = email.message_from_string(text).get_payload()
    assert part.get_content_type() == "application/node.eks.aws"
    node = yaml.safe_load(part.get_payload())
    assert node["kind"] == "NodeConfig"
    assert node["spec"]["instance"]["localStorage"]["strategy"] == "RAID0"


@pytest.mark.parametrize("overlay", ["gpu8"], indirect=True)
def test_training_on_256_gpus_starts_32_pods_of_eight(objects):
    """Ray's own autoscaler is asked, as for `--num-workers 256 --use-gpu`."""
    [cluster] = [one for one in objects if one["kind"] == "RayCluster"]
    kinds = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind["min_workers"],
            max_worker_nodes=kind["max_workers"],
            resources=kind["resources"],
            labels=kind["labels"],
        )
        for name, kind in kinds.items()
    }
    wanted = [ResourceRequestUtil.make({"GPU": 1, "CPU": 8}) for _ in range(256)]
    asked = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=configs,
        max_num_nodes=64,
        resource_requests=ResourceRequestUtil.group_by_count(wanted),
    )
    launched = ResourceDemandScheduler(event_logger=None).schedule(asked).to_launch
    assert [(each.instance_type, each.count) for each in launched] == [("gpu8", 32)]


@pytest.mark.parametrize("overlay", ["gpu8"], indirect=True)
def test_pods_of_eight_gpus_have_room_for_nccl(objects):
    [group] = [one for one in groups(objects, "RayCluster") if one["groupName"] == "gpu8"]
    volumes = {one["name"]: one["emptyDir"] for one in group["template"]["spec"]["volumes"]}
    memory = container(group)["resources"]["limits"]["memory"]
    assert 8 * 8 * GIB <= size(volumes["shm"]["sizeLimit"]) <= size(memory) / 2
    settings = {one["name"]: one["value"] for one in container(group)["env"]}
    assert settings["NCCL_SOCKET_IFNAME"] == "eth0"


def test_driver_that_cuda_needs_is_named_wherever_nodes_are_made():
    for place in ("infra/Dockerfile", "infra/aws/terraform/eks.tf", "docs/cluster.md"):
        found = set(re.findall(r"driver (\d+\.\d+\.\d+)", (ROOT / place).read_text()))
        assert found == {"580.65.06"}, place


def test_image_can_compile():
    """torch.compile calls a compiler in the container, not only while the image is built."""
    last = (ROOT / "infra/Dockerfile").read_text().rpartition("\nFROM ")[2]
    installed = re.findall(r"apt-get install .*?((?:[\w+-]+=\S+ )+)", last)
    assert {word.partition("=")[0] for word in installed[0].split()} >= {"gcc", "g++"}
    assert last.index("apt-get install") < last.index("\nUSER ")
