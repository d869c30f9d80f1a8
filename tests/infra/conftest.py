"""Readers of the files under infra/."""

import copy
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = INFRA / "kubernetes"
OVERLAYS = sorted(place.parent.name for place in KUBERNETES.glob("overlays/*/kustomization.yaml"))


@pytest.fixture(scope="session")
def infra() -> Path:
    return INFRA


@pytest.fixture(params=OVERLAYS)
def overlay(request) -> str:
    return request.param


@pytest.fixture
def objects(overlay) -> list[dict[str, Any]]:
    """Everything that `kubectl apply -k` would create for one overlay."""
    return render(KUBERNETES / "overlays" / overlay)


@pytest.fixture(scope="session")
def gpu() -> dict[tuple[str, str], dict[str, Any]]:
    """What the overlay with GPUs creates, by kind and name."""
    found = render(KUBERNETES / "overlays" / "gpu")
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.fixture(scope="session")
def terraform() -> dict[str, dict[str, dict]]:
    """Everything of kind ``resource`` and ``data``: type to name to body."""
    found: dict[str, dict[str, dict]] = {}
    for place in sorted((INFRA / "aws" / "terraform").glob("*.tf")):
        with place.open() as text:
            whole = plain(hcl2.load(text))
        for block in (*whole.get("resource", ()), *whole.get("data", ())):
            for kind, bodies in block.items():
                for name, body in bodies.items():
                    assert name not in found.setdefault(kind, {}), f"{kind} {name} stands twice"
                    found[kind][name] = body
    return found


def plain(value):
    """Take away the quotes that the parser keeps around names and texts."""
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.strip('"') if isinstance(value, str) else value


def render(folder: Path) -> list[dict[str, Any]]:
    """Apply the few features of kustomize that we use, and refuse any other."""
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
    assert set(asked) <= known, f"{folder}: teach this function {set(asked) - known}"
    found: list[dict[str, Any]] = []
    for name in (*asked["resources"], *asked.get("components", ())):
        place = (folder / name).resolve()
        found += render(place) if place.is_dir() else read(place)
    for each in found:
        if "namespace" in asked and each["kind"] not in ("Namespace", "PriorityClass"):
            each["metadata"]["namespace"] = asked["namespace"]
    for patch in asked.get("patches", ()):
        text = patch.get("patch") or (folder / patch["path"]).read_text()
        hit = [one for one in found if is_target(one, patch["target"])]
        assert len(hit) == 1, f"{folder}: {patch['target']} is {len(hit)} objects"
        for operation in yaml.safe_load(text):
            change(hit[0], operation)
    for image in asked.get("images", ()):
        for container in containers(found):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def read(place: Path) -> list[dict[str, Any]]:
    return [copy.deepcopy(one) for one in yaml.safe_load_all(place.read_text()) if one]


def is_target(one: dict[str, Any], target: dict[str, str]) -> bool:
    return (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])


def change(whole: Any, operation: dict[str, Any]) -> None:
    """Apply one operation of JSON Patch (RFC 6902)."""
    *path, last = [
        key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]
    ]
    for key in path:
        whole = whole[int(key)] if isinstance(whole, list) else whole[key]
    if isinstance(whole, list):
        assert (operation["op"], last) == ("add", "-")
        whole.append(operation["value"])
        return
    assert operation["op"] in ("add", "replace")
    assert operation["op"] == "add" or last in whole, f"nothing to replace at {operation['path']}"
    whole[last] = operation["value"]


def containers(value: Any) -> list[dict[str, Any]]:
    """Return every container, however deep it lies."""
    if isinstance(value, list):
        return [found for one in value for found in containers(one)]
    if not isinstance(value, dict):
        return []
    own = value.get("containers", [])
    rest = (one for key, one in value.items() if key != "containers")
    return [*own, *(found for one in rest for found in containers(one))]
