"""The machines on AWS and their infrastructure."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
AWS = ROOT / "infra" / "aws"


@pytest.fixture(scope="module")
def cluster() -> dict:
    return yaml.safe_load((AWS / "cluster.yaml").read_text())


def test_machines_are_valid_for_ray(cluster):
    schema = json.loads(
        Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text()
    )
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for name, kind in cluster["available_node_types"].items():
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required", name


def test_machines_start_with_a_token_and_answer_the_machine_itself_alone(cluster):
    for command in (*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]):
        assert command == "ray stop" or command.startswith("RAY_AUTH_MODE=token ray start ")
    assert any("--dashboard-host=127.0.0.1" in text for text in cluster["head_start_ray_commands"])
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]


def test_names_agree_with_terraform_and_kubernetes(cluster, terraform):
    profiles = {one["name"] for one in terraform["aws_iam_instance_profile"].values()}
    used = {
        kind["node_config"]["IamInstanceProfile"]["Name"]
        for kind in cluster["available_node_types"].values()
    }
    assert used == profiles
    account = yaml.safe_load((ROOT / "infra/kubernetes/base/access.yaml").read_text())
    role = account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
    assert role == terraform["aws_iam_role"]["pods"]["name"]
    [trust] = terraform["aws_iam_policy_document"]["pods_assume"]["statement"]
    who = f"system:serviceaccount:infill:{account['metadata']['name']}"
    assert trust["condition"][0]["values"] == [who]
    text = (ROOT / "infra/aws/terraform/roles.tf").read_text()
    assert re.search(rf'ray-cluster-name"\s+values\s+= \["{cluster["cluster_name"]}"\]', text)
    assert cluster["docker"]["image"] in (ROOT / "infra" / "Dockerfile").read_text()


def test_bucket_is_versioned_encrypted_and_closed(terraform):
    versioning = terraform["aws_s3_bucket_versioning"]["store"]["versioning_configuration"]
    assert versioning[0]["status"] == "Enabled"
    encryption = terraform["aws_s3_bucket_server_side_encryption_configuration"]["store"]["rule"]
    assert encryption[0]["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    closed = terraform["aws_s3_bucket_public_access_block"]["store"]
    assert all(
        closed[name] is True for name in closed if name.startswith(("block", "ignore", "re"))
    )


def test_roles_may_do_nothing_they_do_not_need(terraform):
    for name, document in terraform["aws_iam_policy_document"].items():
        for statement in document["statement"]:
            if statement.get("effect") == "Deny":
                continue
            assert not any(action.endswith("*") for action in statement["actions"]), name
            if "*" in statement.get("resources", ()):
                looks = all(
                    re.match(r"ec2:(Describe|RunInstances|CreateTags)", action)
                    for action in statement["actions"]
                )
                assert looks or statement.get("condition"), name
    store = terraform["aws_iam_policy_document"]["store"]["statement"]
    assert all("aws_s3_bucket.store.arn" in r for one in store for r in one["resources"])


def test_references_lead_somewhere(terraform):
    text = "".join(place.read_text() for place in (AWS / "terraform").glob("*.tf"))
    for kind, name in re.findall(r"(?<![\w.\"])(?:data\.)?(aws_\w+)\.(\w+)[.\[]", text):
        assert name in terraform[kind], f"{kind}.{name}"
    declared = set(re.findall(r'variable "(\w+)"', text))
    assert set(re.findall(r"var\.(\w+)", text)) == declared


def test_files_are_laid_out_as_terraform_fmt_does():
    """Two spaces a level, and the equals signs of neighbouring lines below each other."""
    for place in (AWS / "terraform").glob("*.tf"):
        level, columns = 0, []
        for number, line in enumerate(place.read_text().splitlines(), 1):
            where, code = f"{place.name}:{number}", line.strip()
            level -= code.startswith(("}", "]"))
            assert not code or len(line) - len(line.lstrip()) == 2 * level, where
            level += code.endswith(("{", "[", "(["))
            single = re.match(r'\s*[\w"]+(\s*)= (?!.*[{\[(]$)', line)
            columns = [*columns, line.index("=")] if single else []
            assert len(set(columns)) <= 1, where
