"""The part of KubeRay's ray.io/v1 (1.6) that our manifests use, as JSON Schema.

Pods are Kubernetes' own. What is not written down is refused, so that a misspelt field is, too.
"""

from typing import Any


def record(required: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY = {"type": "object"}
SECRET = record("valueFrom", valueFrom=ANY)

CLUSTER = record(
    "rayVersion headGroupSpec",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=NUMBER,
        resources=ANY,
        securityContext=ANY,
    ),
    authOptions=record("mode", mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=record("redisAddress", redisAddress=TEXT, redisPassword=SECRET),
    headGroupSpec=record("rayStartParams template", rayStartParams=TEXTS, template=ANY),
    workerGroupSpecs={
        "type": "array",
        "items": record(
            "groupName rayStartParams template minReplicas maxReplicas",
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            labels=TEXTS,
            rayStartParams=TEXTS,
            template=ANY,
        ),
    },
)
SERVICE = record(
    "serveConfigV2 rayClusterConfig",
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    serviceUnhealthySecondThreshold=NUMBER,
    deploymentUnhealthySecondThreshold=NUMBER,
    excludeHeadPodFromServeSvc=FLAG,
)
JOB = record(
    "entrypoint clusterSelector",
    entrypoint=TEXT,
    clusterSelector=record("ray.io/cluster", **{"ray.io/cluster": TEXT}),
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
    ttlSecondsAfterFinished=NUMBER,
)
KINDS = {
    kind: record(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=record("name namespace", name=TEXT, namespace=TEXT, labels=TEXTS),
        spec=spec,
    )
    for kind, spec in (("RayCluster", CLUSTER), ("RayService", SERVICE), ("RayJob", JOB))
}
