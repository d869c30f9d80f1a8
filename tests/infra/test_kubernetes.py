"""The manifests: valid for Kubernetes and KubeRay, safe, and of one mind with each other."""

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator

from infill.jobs import train_spn, tune
from infill.pipeline import tuning
from infill.pipeline.config import parse
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.replica.deployment import deploy_yaml, resolve_models
from infill.pipeline.training import require_weights

ROOT = Path(__file__).parents[2]


def load_beside(name: str):
    """Import a file of this folder; tests are no package."""
    place = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"infra_{name}", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


KUBERAY = load_beside("kuberay").KINDS
render = load_beside("conftest").render
containers = load_beside("conftest").containers


@pytest.fixture(scope="module")
def jobs() -> list[dict]:
    return render(ROOT / "infra" / "kubernetes" / "jobs")


def clusters(objects: list[dict]) -> list[dict]:
    found = [one["spec"] for one in objects if one["kind"] == "RayCluster"]
    return found + [o["spec"]["rayClusterConfig"] for o in objects if o["kind"] == "RayService"]


def pods(objects: list[dict]) -> list[dict]:
    """Return every pod template, Ray's and Kubernetes'."""
    groups = [
        group
        for cluster in clusters(objects)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    ]
    kinds = ("StatefulSet", "Deployment")
    own = [one["spec"]["template"] for one in objects if one["kind"] in kinds]
    return [group["template"] for group in groups] + own


def named(objects: list[dict], kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def test_every_object_is_valid(objects, jobs):
    for one in (*objects, *jobs):
        if one["kind"] in KUBERAY:
            jsonschema.validate(one, KUBERAY[one["kind"]])
        else:
            kubernetes_validate.validate(one, "1.33", strict=True)
    for number, pod in enumerate(pods(objects)):
        metadata = {**pod["metadata"], "name": f"pod-{number}"}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
        kubernetes_validate.validate(whole, "1.33", strict=True)


def test_misspelt_field_is_not_valid(objects):
    service = named(objects, "RayService")["infill-endpoint"]
    service["spec"]["rayClusterConfig"]["enableInTreeAutoscalling"] = True
    with pytest.raises(jsonschema.ValidationError, match="Autoscalling"):
        jsonschema.validate(service, KUBERAY["RayService"])


def test_every_pod_is_bounded_probed_and_without_rights(objects):
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert {"readinessProbe", "livenessProbe"} <= set(container)
            assert not re.search(r":(latest)?$", container["image"])


def test_names_agree_everywhere(objects, overlay, jobs):
    variant = "cpu" if overlay == "kind" else "cuda"
    images = {c["image"] for c in containers(objects) if c["image"].startswith("infill")}
    assert images == {f"infill:0.1.0-{variant}"}
    built = re.findall(r"-t (infill:\S+)", (ROOT / "infra" / "Dockerfile").read_text())
    assert images <= set(built)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all(image.startswith(f"infill:{project['version']}-") for image in built)

    priorities = named(objects, "PriorityClass")
    accounts = named(objects, "ServiceAccount")
    for pod in pods(objects):
        assert pod["spec"]["priorityClassName"] in priorities
        assert pod["spec"].get("serviceAccountName", "infill") in accounts
    text = (ROOT / "infra/kubernetes/secrets.example.yaml").read_text()
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}
    for container in containers(objects):
        for variable in container.get("env", ()):
            if source := variable.get("valueFrom"):
                assert source["secretKeyRef"]["key"] in secrets[source["secretKeyRef"]["name"]]
    redis = named(objects, "Service")["infill-redis"]
    for cluster in clusters(objects):
        fault = cluster["gcsFaultToleranceOptions"]
        port = redis["spec"]["ports"][0]["port"]
        assert fault["redisAddress"] == f"{redis['metadata']['name']}:{port}"
        wanted = fault["redisPassword"]["valueFrom"]["secretKeyRef"]
        assert wanted["key"] in secrets[wanted["name"]]
        assert cluster["authOptions"] == {"mode": "token"}
        assert f"ray[default,data,train,tune,serve]>={cluster['rayVersion'][:4]}" in " ".join(
            project["dependencies"]
        )
    for job in jobs:
        assert job["spec"]["clusterSelector"]["ray.io/cluster"] in named(objects, "RayCluster")
    namespaces = {
        one["metadata"].get("namespace")
        for one in (*objects, *jobs)
        if one["kind"] not in ("Namespace", "PriorityClass")
    }
    assert namespaces == set(named(objects, "Namespace")) == {"infill"}


def test_rules_for_pods_select_pods_that_are_there(objects):
    """Operator and Kubernetes add the labels ray.io/* and created-by by themselves."""

    def selects(labels: dict[str, str]) -> bool:
        ours = {key: value for key, value in labels.items() if not key.startswith("ray.io/")}
        return any(ours.items() <= pod["metadata"]["labels"].items() for pod in pods(objects))

    rules = [one for one in objects if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget")]
    assert len(rules) == 8
    for rule in rules:
        chosen = rule["spec"].get("podSelector", rule["spec"].get("selector"))
        assert selects(chosen.get("matchLabels", {})), rule["metadata"]["name"]
    policies = named(objects, "NetworkPolicy")
    assert policies["infill-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


def test_endpoint_is_what_the_job_prints(objects, overlay):
    from ray.serve.schema import ServeDeploySchema

    text = named(objects, "RayService")["infill-endpoint"]["spec"]["serveConfigV2"]
    ServeDeploySchema.model_validate(yaml.safe_load(text))
    config = ServeConfig(
        host="0.0.0.0",
        num_replicas=2,
        max_replicas=8,
        cpus_per_replica=2,
        use_gpu=overlay == "gpu-endpoint",
    )
    assert yaml.safe_load(text) == yaml.safe_load(deploy_yaml(config, resolve_models(config)))


def test_commands_of_jobs_are_understood_by_the_jobs(jobs):
    words = {job["metadata"]["name"]: shlex.split(job["spec"]["entrypoint"]) for job in jobs}
    scripts = {name: command[:2] for name, command in words.items()}
    assert scripts == {
        "infill-train": ["python", "/home/ray/infill/jobs/train_spn.py"],
        "infill-search": ["python", "/home/ray/infill/jobs/tune.py"],
    }
    train = parse(train_spn.PRESETS, "", words["infill-train"][2:])
    assert (train.num_workers, train.use_gpu) == (8, True)
    assert train.storage == "s3://infill-example/runs/spn-places2"
    scale, rest = tune.scale_of(words["infill-search"][2:])
    search = parse(tune.presets_of(scale), "", rest)
    space = tuning.read_space(search.space, "spn")
    assert search.gpus_per_trial == 1
    for config in (train, search.train):
        require_weights(config)  # No file of other authors is missing.
    assert len(tuning.plan(search, space)) == search.num_trials == 9
    assert scale == "paper"


def test_each_file_says_at_its_top_how_it_is_applied(infra):
    for place in infra.rglob("*"):
        if place.suffix in (".yaml", ".tf") or place.name == "Dockerfile":
            top = "".join(place.read_text().partition("\n\n")[0].splitlines(keepends=True)[:14])
            comments = "\n".join(line for line in top.splitlines() if line.startswith("#"))
            commands = r"kubectl|terraform|ray up|docker build|promtool|prometheus"
            assert re.search(commands, comments), place


def node_types_of_kubernetes() -> dict[str, dict]:
    """Return the node types that Ray's autoscaler reads from the cluster with GPUs."""
    [cluster] = [
        each
        for each in render(ROOT / "infra" / "kubernetes" / "overlays" / "gpu")
        if each["kind"] == "RayCluster"
    ]
    found: dict[str, dict] = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    return found


def node_types_of_aws() -> dict[str, dict]:
    text = (ROOT / "infra" / "aws" / "cluster.yaml").read_text()
    found: dict[str, dict] = yaml.safe_load(text)["available_node_types"]
    return found


@pytest.mark.parametrize("node_types", [node_types_of_kubernetes, node_types_of_aws])
def test_documented_worker_labels_start_a_node_with_a_gpu(node_types) -> None:
    """Ray's own scheduler is asked, as it is for a worker of a training."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    [label] = re.findall(r"--worker-labels (ray\.io/accelerator-type=\w+)", text)
    configs = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=kind.get("min_workers", 0),
            max_worker_nodes=kind.get("max_workers", 0),
            resources=kind["resources"],
            labels=kind.get("labels", {}),
        )
        for name, kind in node_types().items()
    }

    def started(label: str) -> list[str]:
        key, value = label.split("=")
        selector = [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value])]
        wanted = ResourceRequestUtil.make({"GPU": 1, "CPU": 1}, label_selectors=[selector])
        asked = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=configs,
            max_num_nodes=16,
            resource_requests=ResourceRequestUtil.group_by_count([wanted]),
        )
        launched = ResourceDemandScheduler(event_logger=None).schedule(asked).to_launch
        return [
            each.instance_type
            for each in launched
            if configs[each.instance_type].resources.get("GPU")
        ]

    assert len(started(label)) == 1
    assert started("ray.io/accelerator-type=none") == []
