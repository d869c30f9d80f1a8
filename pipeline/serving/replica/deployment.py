"""Start, refresh and stop the service on Ray Serve.

The application has two deployments: ``ingress`` speaks HTTP and decodes, ``replica`` holds the
models. The replica's ``user_config`` lists the served versions, and a new champion changes nothing
else: Serve passes it to running replicas (``reconfigure``) without a restart, and to replicas that
start later. This needs a deployment by configuration, as with ``serve deploy``; ``serve.run`` would
replace every replica each time.

On a cluster, requests come through Serve's proxies, one on each node. A local Ray that is started
for the service needs no proxy: the ingress itself listens (:func:`direct_ingress`).
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from infill.pipeline import storage
from infill.pipeline.config import to_dict
from infill.pipeline.error_sentences import sentences_in
from infill.pipeline.errors import UserError
from infill.pipeline.registry import RegistryConfig, resolve
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.serving.http.auth import read_keys
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.tracing import tracing_to
from infill.pipeline.serving.replica.ingress import CALLS_PER_REPLICA
from infill.pipeline.serving.replica.listening import (
    ingress_port,
    port_environment,
    reuse_address,
)
from infill.pipeline.serving.replica.replica import CanaryCount, ServedModel, version_info

APPLICATION = "infill"
_IMPORT_PATH = "infill.pipeline.serving.replica.ingress:application"
_WITH_JOBS = "infill.pipeline.job_runner.deployment:application"
_MESSAGE_BYTES = 64 * 2**20  # Four times MAX_CALL_BYTES; gRPC's own limit is 4 MiB.
_BODY_GRACE_S = 5.0  # beyond the app's own deadline, whose response has our shape
BOUND_SERVE = "infill.pipeline.serving.http.door:bound_serve"
"""What Serve calls before a process listens; see :func:`direct_ingress`."""
_LOGGING = {"encoding": "JSON", "enable_access_log": False}
LONGEST_START_S = 300.0
"""Seconds that replicas may take to load and test their models."""
LONGEST_STOP_S = 60.0
"""Seconds that a service may take to end."""


def resolve_models(config: ServeConfig) -> list[ServedModel]:
    """Look every model up, without Ray.

    Raises:
        UserError: if one is unknown or its files are missing or damaged.
    """
    return [resolve_model(config.registry, name) for name in (config.model, *config.more_models)]


def resolve_model(registry: RegistryConfig, reference: str) -> ServedModel:
    """Look one model up.

    Raises:
        UserError: if it is unknown or its files are missing or damaged.
    """
    found = resolve(registry, reference)
    return ServedModel(
        name=found.name,
        reference=reference,
        version=found.version,
        digest=found.digest,
        location=found.address,
    )


def choose_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0, after checking that it can be bound.

    Raises:
        UserError: if it is taken or not permitted, or the host is not an address of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        reuse_address(probe)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen at {host} port {port}: {error.strerror or error}; "
                "stop what uses it or choose another port with --port (0 takes a free one)"
            ) from error
        return int(probe.getsockname()[1])


def direct_ingress(port: int) -> dict[str, str]:
    """Return the environment of a local Ray whose Serve listens on a port without a proxy.

    These are Ray's own settings for throughput: the ingresses themselves listen, replicas are
    called by gRPC and do not pass requests between threads. They apply from the start of Ray, and
    the ingresses of a node share the port, so they suit a Ray that is started for the service on
    one machine.
    """
    return {
        **port_environment(port),
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # The driver has no event loop.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # No load balancer.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # An ingress that died is replaced at once.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": BOUND_SERVE,
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # A line that waits is lost at the end.
    }


def start(config: ServeConfig, timeout_s: float = LONGEST_START_S) -> str:
    """Serve on the connected Ray, and return when the service is ready. Runs on the driver.

    Args:
        config: the service; its models are looked up first. With the environment of
            :func:`direct_ingress`, the port of that environment is used.
        timeout_s: seconds that the replicas may take to load and test their models.

    Returns:
        The base URL, such as ``http://127.0.0.1:8000``.

    Raises:
        UserError: if a model is unknown, the port is taken, or the replicas do not start.
    """
    models = resolve_models(config)
    read_keys(config.keys)
    config.jobs.secret()
    if config.traces:
        tracing_to(config.traces)  # Refuses them here, before processes are started.
    port = ingress_port()
    proxy_port = choose_port(config.host, 0 if port else config.port)
    port = port or proxy_port
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(
        proxy_location="HeadOnly",
        http_options=_http_options(config, proxy_port),
        logging_config=_LOGGING,
    )
    _forget_failed()
    _deploy(config, models)
    _wait_until_running(timeout_s)
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    return f"http://{reachable}:{port}"


def try_out(config: ServeConfig, current: list[ServedModel], renewed: list[ServedModel]) -> str:
    """Route a share of the requests to new versions for a while (canary); the old ones stay.

    Returns:
        The error of the new versions, "" if there is none.
    """
    new = [model for model in renewed if model not in current]
    _deploy(config, current, new)
    _wait_until_running(config.canary_s + LONGEST_START_S)
    time.sleep(config.canary_s)
    counts = _canary_counts(config)
    failures = sum(count.failures for count in counts)
    answers = sum(count.answers for count in counts)
    if not failures:
        return ""
    return f"{_labels(new)} failed {failures} of {failures + answers} times"


def _canary_counts(config: ServeConfig) -> list[CanaryCount]:
    """Call replicas until each has most likely answered: Serve chooses one at random."""
    from ray import serve

    handle = serve.get_deployment_handle("replica", APPLICATION)
    asked = 8 * max(config.num_replicas, config.max_replicas)
    answers = [handle.canary_count.remote() for _ in range(asked)]
    counts: list[CanaryCount] = [answer.result() for answer in answers]
    return list({count.replica: count for count in counts}.values())


def refresh(config: ServeConfig, current: list[ServedModel]) -> list[ServedModel]:
    """Look the models up again and swap those that changed; no request fails meanwhile.

    Args:
        config: the configuration that was passed to :func:`start`.
        current: the versions that are served now.

    Returns:
        The versions that are served from now on.
    """
    models = resolve_models(config)
    if models != current:
        _deploy(config, models)
    return models


def stop() -> None:
    """End the service; Ray keeps running.

    Waits :data:`LONGEST_STOP_S` at most: if a new version's start was interrupted, Serve may not
    answer at all.
    """
    ending = threading.Thread(target=_shut_down, daemon=True)
    ending.start()
    ending.join(LONGEST_STOP_S)


def _shut_down() -> None:
    """End Serve. Its controller ends itself in a task that Ray would report and retry forever."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # None, or gone already.
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote())
    serve.shutdown()


def watch(config: ServeConfig, log: Any = print) -> None:
    """Keep the service on the versions of its aliases until interrupted.

    If the registry cannot be read for a while, the service keeps its versions.
    """
    current, refused = resolve_models(config), list[ServedModel]()
    trouble = ""
    while True:
        time.sleep(config.refresh_s or 3600)
        if not config.refresh_s:
            continue
        try:
            renewed = resolve_models(config)
            if config.canary_share and renewed not in (current, refused):
                log(f"trying {_labels(renewed)} on {config.canary_share:.0%} of the requests")
                if wrong := try_out(config, current, renewed):
                    log(f"still serving {_labels(current)}: {wrong}")
                    _deploy(config, current)
                    refused = renewed
            if renewed == refused:
                continue
            renewed = refresh(config, current)
        except UserError as error:
            if str(error) != trouble:
                log(f"still serving {_labels(current)}: {error}")
            trouble = str(error)
            continue
        if renewed != current:
            log(f"now serving {_labels(renewed)}")
        current, trouble = renewed, ""


def _labels(models: list[ServedModel]) -> str:
    return ", ".join(model.label for model in models)


def deployment_schema(
    config: ServeConfig, models: list[ServedModel], canaries: Sequence[ServedModel] = ()
) -> dict[str, Any]:
    """Return the application as Serve's configuration, the input of ``serve deploy``."""
    settings: dict[str, Any] = {"app": _app_config(config), "replica": config.replica}
    jobs = settings["app"].jobs
    names = ("limits", "tiling", "jobs")
    running = {name: to_dict(getattr(settings["app"], name)) for name in names}
    running |= {"batch_size": config.max_batch_size, "use_gpu": config.use_gpu}
    return {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": _WITH_JOBS if jobs.folder else _IMPORT_PATH,
        "args": {
            **{name: to_dict(value) for name, value in settings.items()},
            "replicas": max(config.num_replicas, config.max_replicas),
            **({"jobs": running} if jobs.folder else {}),
        },
        "deployments": [
            {
                "name": "ingress",
                "num_replicas": config.num_ingresses,
                # Beyond it Serve holds requests back, also those of probes: as the door bounds
                # connections, those that send slowly do not keep a probe waiting.
                "max_ongoing_requests": 2 * config.limits.max_connections,
                "ray_actor_options": {"num_cpus": 0},
            },
            {
                "name": "replica",
                **_number_of_replicas(config),
                "max_ongoing_requests": config.limits.max_waiting,
                "max_queued_requests": config.limits.max_waiting,
                "ray_actor_options": {
                    "num_cpus": config.cpus_per_replica,
                    "num_gpus": config.gpus_per_replica if config.use_gpu else 0,
                },
                "health_check_period_s": 2,
                "graceful_shutdown_timeout_s": 10,
                "user_config": {
                    "models": [version_info(model) for model in models],
                    "canaries": [version_info(model) for model in canaries],
                    "canary_share": config.canary_share if canaries else 0.0,
                },
            },
            *([{"name": "jobs", "ray_actor_options": {"num_cpus": 0}}] if jobs.folder else []),
        ],
    }


def deploy_yaml(config: ServeConfig, models: list[ServedModel]) -> str:
    """Return the service as a file for ``serve deploy`` or a RayService's ``serveConfigV2``.

    It names versions, not aliases: a new champion needs a new file, whose ``user_config`` Serve
    passes to running replicas. It has one ingress unless the configuration gives a number: the
    ingresses of several nodes count on their own, and Serve's proxies hold the requests until one
    that died is replaced.
    """
    import yaml

    config = replace(config, ingress_replicas=config.ingress_replicas or 1)

    schema = {
        "http_options": _http_options(config, config.port),
        "logging_config": _LOGGING,
        "applications": [deployment_schema(config, models)],
    }
    return str(yaml.safe_dump(schema, sort_keys=False))


def _http_options(config: ServeConfig, port: int) -> dict[str, Any]:
    limits = config.limits
    longest_s = max(limits.request_timeout_s, limits.batch_timeout_s)
    return {
        "host": config.host,
        "port": port,
        "request_timeout_s": _BODY_GRACE_S + longest_s,
        "keep_alive_timeout_s": round(limits.idle_timeout_s),
    }


def _number_of_replicas(config: ServeConfig) -> dict[str, Any]:
    if not config.max_replicas:
        return {"num_replicas": config.num_replicas}
    return {
        "num_replicas": "auto",
        "autoscaling_config": {
            "min_replicas": config.num_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": CALLS_PER_REPLICA,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": 10 * config.upscale_delay_s,
        },
    }


def _app_config(config: ServeConfig) -> HttpConfig:
    return HttpConfig(
        limits=config.limits.of_one(config.num_ingresses),
        tiling=config.tiling,
        traces=config.traces,
        web_app=storage.absolute(config.web_app) if config.web_app else "",
        aliases=config.aliases,
        licences=config.licences,
        keys=read_keys(config.keys),
        keys_file=storage.absolute(config.keys) if config.keys else "",
        cors_origins=config.cors_origins,
        allowed_hosts=config.allowed_hosts,
        jobs=config.jobs.everywhere(config.registry.tracking_uri),
    )


def _deploy(
    config: ServeConfig, models: list[ServedModel], canaries: Sequence[ServedModel] = ()
) -> None:
    """Pass the configuration to Serve's controller, as the dashboard's REST interface does.

    That interface needs a dashboard, which a local Ray does not start; Ray has no public call for
    it.
    """
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema(applications=[deployment_schema(config, models, canaries)])
    _get_global_client().deploy_apps(schema)


def _forget_failed() -> None:
    """Delete an application that has not started: Serve would not try the same one again."""
    from ray import serve

    before = serve.status().applications.get(APPLICATION)
    if before is not None and before.status == "DEPLOY_FAILED":
        serve.delete(APPLICATION)


def _reason(status: Any) -> str:
    """Return why an application was not deployed: the sentence of a replica, or Ray's words."""
    said = [status.message, *(one.message for one in status.deployments.values())]
    ours = [sentence for text in said for sentence in sentences_in(text)]
    return ours[-1] if ours else " ".join(status.message.split())[-500:]


def _wait_until_running(timeout_s: float) -> None:
    from ray import serve

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = serve.status().applications.get(APPLICATION)
        if status is not None and status.status == "RUNNING":
            return
        if status is not None and status.status == "DEPLOY_FAILED":
            raise UserError(f"the service did not start: {_reason(status)}")
        time.sleep(0.1)
    raise UserError(f"the service did not start within {timeout_s:g} s; see Ray's logs")
