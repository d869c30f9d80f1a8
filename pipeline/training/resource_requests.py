"""Requests for resources that killed trainings leave behind in Ray.

Each controller of Ray Train asks Ray's autoscaling coordinator, a named actor, for the resources of
its workers, and withdraws that when the training ends. What a killed controller has asked for is
kept for three minutes, in which an elastic training would wait for those resources.
"""

from contextlib import suppress
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)

NAMESPACE = "infill-trainings"
"""Ray's namespace in which the controllers have their names."""
PREFIX = "infill-"
"""What the names of our trainings in Ray begin with."""
ANSWER_WITHIN_S = 5.0


def name_controller(trainer: Any) -> dict[str, str]:
    """Return the options of Ray's that name a training's controller after its request.

    Args:
        trainer: Ray's trainer, whose training gets a name that is known as ours.
    """
    context = trainer.train_run_context
    # It is frozen, and takes no name from outside.
    object.__setattr__(context, "run_id", PREFIX + context.run_id)
    return {"name": _requester(context.run_id), "namespace": NAMESPACE}


def withdraw_requests_of_dead() -> None:
    """Withdraw what our trainings have asked for whose controllers do not live any more.

    Without effect if Ray's coordinator does not answer. In any process of Ray.
    """
    coordinator = get_or_create_autoscaling_coordinator()
    with suppress(ray.exceptions.RayError):
        requests = coordinator.__ray_call__.remote(lambda actor: list(actor._ongoing_reqs))
        for requester in ray.get(requests, timeout=ANSWER_WITHIN_S):
            if requester.startswith(_requester(PREFIX)) and not _lives(requester):
                ray.get(coordinator.cancel_request.remote(requester), timeout=ANSWER_WITHIN_S)


def _requester(run: str) -> str:
    """Return the name under which Ray Train makes the request of a run."""
    return f"train-{run}"


def _lives(controller: str) -> bool:
    try:
        ray.get_actor(controller, namespace=NAMESPACE)
    except ValueError:
        return False
    return True
