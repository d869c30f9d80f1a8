"""The page docs/kubernetes.md: its commands, in their order, against the manifests."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from mlflow.server.security_utils import is_allowed_host_header
from sqlalchemy.engine import make_url

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


@pytest.fixture
def steps() -> list[list[str]]:
    """Return the commands of the page in words."""
    blocks = re.findall(r"^```sh title=[^\n]*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    text = re.sub(r" \\\n +", " ", "".join(blocks))
    return [shlex.split(line.removesuffix(" &")) for line in text.splitlines()]


KINDS = {
    "statefulset": "StatefulSet",
    "deployment": "Deployment",
    "raycluster": "RayCluster",
    "rayservice": "RayService",
    "service": "Service",
}


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_files_and_folders_are_there_and_are_applied_in_order(steps):
    applied = [option(w, w[2]) for w in steps if w[:2] == ["kubectl", "apply"]]
    for path in applied:
        place = ROOT / path
        assert (place / "kustomization.yaml" if place.is_dir() else place).is_file(), path
    folder = "infra/kubernetes/overlays/gpu"
    order = ["infra/kubernetes/base/namespace.yaml", folder, "infra/kubernetes/jobs/train.yaml"]
    assert applied[:3] == order
    assert [words[-1] for words in steps if words[:2] == ["kubectl", "delete"]] == [folder]


def test_every_object_that_a_command_names_is_created(steps, gpu):
    made_by_kuberay = {f"{name}-head-svc" for kind, name in gpu if kind == "RayCluster"}
    made_by_kuberay |= {f"{name}-serve-svc" for kind, name in gpu if kind == "RayService"}
    seen = 0
    for words in steps:
        if words[0] != "kubectl":
            continue
        for word in words:
            kind, slash, name = word.partition("/")
            if slash and kind in KINDS:
                seen += 1
                assert (KINDS[kind], name) in gpu or name in made_by_kuberay, word
        if words[:4] == ["kubectl", "-n", "infill", "get"]:
            kind, name = words[4:6]
            jobs = (ROOT / "infra/kubernetes/jobs").glob("*.yaml")
            submitted = [
                yaml.safe_load(place.read_text())["metadata"]["name"]
                for place in jobs
                if place.stem != "kustomization"
            ]
            created = {n for _, n in gpu} | set(submitted)
            assert name in created, words
    assert seen >= 6


def test_ports_that_are_forwarded_are_the_services(steps, gpu):
    forwarded = {w[4].partition("/")[2]: int(w[5]) for w in steps if "port-forward" in w}
    [mlflow] = gpu["Service", "mlflow"]["spec"]["ports"]
    assert forwarded.pop("mlflow") == mlflow["port"]
    heads = gpu["RayCluster", "infill"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert forwarded.pop("infill-head-svc") in {p["containerPort"] for p in heads[0]["ports"]}
    served = yaml.safe_load(gpu["RayService", "infill-endpoint"]["spec"]["serveConfigV2"])
    assert forwarded == {"infill-endpoint-serve-svc": served["http_options"]["port"]}


def test_page_makes_every_secret_that_a_pod_reads_before_the_pods(steps, gpu):
    read: set[tuple[str, str]] = set()

    def look(value) -> None:
        if isinstance(value, dict):
            if "secretKeyRef" in value:
                read.add((value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]))
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(list(gpu.values()))
    texts = [" ".join(words) for words in steps]
    made = {
        re.search(r"secret generic (\S+) --from-literal=(\w+)=", text).groups()
        for text in texts
        if "create secret" in text
    }
    assert made == read
    overlay = next(i for i, text in enumerate(texts) if "overlays/gpu" in text)
    assert max(i for i, text in enumerate(texts) if "create secret" in text) < overlay
    assert texts.index("kubectl apply -f infra/kubernetes/base/namespace.yaml") < min(
        i for i, text in enumerate(texts) if "create secret" in text
    )


def test_operator_runs_where_the_network_policy_lets_it_in(steps, gpu):
    [install] = [words for words in steps if words[:2] == ["helm", "install"]]
    policy = gpu["NetworkPolicy", "infill-among-themselves"]["spec"]["ingress"]
    names = re.findall(r"kubernetes.io/metadata.name': '([\w-]+)'", str(policy))
    assert option(install, "-n") in names
    assert int(option(install, "--version").split(".")[1]) >= 6


def test_image_that_is_built_is_the_overlays(steps, gpu):
    [build] = [words for words in steps if words[:2] == ["docker", "build"]]
    server = gpu["Deployment", "infill-mlflow"]["spec"]["template"]["spec"]["containers"][0]
    assert option(build, "-t") == server["image"]
    text = (ROOT / "infra/Dockerfile").read_text()
    for word in build[build.index("-t") + 2 : -1]:
        if "=" in word:
            assert f"ARG {word.partition('=')[0]}=" in text


def test_variables_of_terraform_are_declared(steps):
    [apply] = [words for words in steps if words[0] == "terraform" and "apply" in words]
    given = {
        w.partition("=")[0] for w, before in zip(apply[1:], apply, strict=False) if before == "-var"
    }
    declared = re.findall(
        r'variable "(\w+)"', (ROOT / "infra/aws/terraform/variables.tf").read_text()
    )
    assert given <= set(declared)
    assert {"bucket", "cluster", "subnets", "oidc_provider"} == given


def test_jobs_reach_mlflow_and_mlflow_its_database(gpu):
    """The address in every setting, the service, the allowed hosts, the policies."""
    address = gpu["ConfigMap", "infill-settings"]["data"]["MLFLOW_TRACKING_URI"]
    host = address.partition("://")[2]
    assert host == "mlflow.infill.svc:5000"
    assert address in PAGE
    for place in ("train", "search"):
        assert address in (ROOT / f"infra/kubernetes/jobs/{place}.yaml").read_text()
    pod = gpu["Deployment", "infill-mlflow"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert gpu["Service", "mlflow"]["spec"]["selector"].items() <= labels.items()
    [server] = pod["spec"]["containers"]
    words = dict(word.removeprefix("--").split("=", 1) for word in server["args"])
    allowed = words["allowed-hosts"].split(",")
    assert is_allowed_host_header(allowed, host)
    assert is_allowed_host_header(allowed, "127.0.0.1:5000")
    assert not is_allowed_host_header(allowed, "elsewhere:5000")
    # Kubernetes would set MLFLOW_PORT to the service's address, and MLflow's command reads it.
    assert pod["spec"]["enableServiceLinks"] is False

    database = make_url(words["backend-store-uri"])
    assert database.drivername == "postgresql+psycopg2"
    assert database.password is None
    service = gpu["Service", "infill-mlflow-database"]["spec"]
    assert (database.host, database.port) == ("infill-mlflow-database", service["ports"][0]["port"])
    [postgres] = gpu["StatefulSet", "infill-mlflow-database"]["spec"]["template"]["spec"][
        "containers"
    ]
    settings = {one["name"]: one.get("value", one.get("valueFrom")) for one in postgres["env"]}
    assert (settings["POSTGRES_USER"], settings["POSTGRES_DB"]) == (
        database.username,
        database.database,
    )
    password = {one["name"]: one.get("valueFrom") for one in server["env"]}["PGPASSWORD"]
    assert password == settings["POSTGRES_PASSWORD"]

    for policy, sender, port in (
        ("infill-mlflow", "infill", 5000),
        ("infill-mlflow-database", "infill-mlflow", 5432),
    ):
        [rule] = gpu["NetworkPolicy", policy]["spec"]["ingress"]
        [one] = rule["from"]
        assert one["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": sender}
        assert rule["ports"] == [{"port": port}]


def test_first_answer_needs_no_training(gpu):
    config = yaml.safe_load(gpu["RayService", "infill-endpoint"]["spec"]["serveConfigV2"])
    [model] = config["applications"][0]["deployments"][1]["user_config"]["models"]
    assert model["location"] == "infill-base"
    for name in ("photo.jpg", "hole.png"):
        assert f"docs/pictures/{name}" in PAGE
        assert (ROOT / "docs/pictures" / name).is_file()
