"""Ray's trainer on chosen workers: in a trial's resources, in numbers that share the batch.

Ray's actor that frees a dead controller's resources is left out. It asks a dashboard whether the
controller lives, and without an address it finds that of any Ray on the machine: with another Ray
there, it takes a living controller for dead and ends its workers. The driver frees them instead.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
    PlacementGroupHandle,
)
from ray.util import get_current_placement_group

from infill.pipeline.cluster import on_this_node, spare_from_kernel
from infill.pipeline.training.resource_requests import name_controller, withdraw_requests_of_dead

CONTROLLER_BYTES = 4 * 10**8
"""Memory that the controller of a training reserves on the driver's node."""
PAUSE_S = 0.2
"""Seconds between two looks for resources while a training waits for them."""


class TrialReservation(DefaultPlacementGroupHandle):
    """The resources of a Tune trial, which stay the trial's when the workers end."""

    def shutdown(self) -> None:
        """Leave the resources to Ray Tune."""


class KnownWorkerGroup(WorkerGroup):
    """Workers whose reservation the monitor knows; none of them is left when their start fails."""

    monitor: Any = None
    """The handle of the ``HeartbeatMonitor``; each subclass has its own."""
    group: Any = None
    """The placement group of the trial that trains, with a bundle per worker; None outside."""

    def _create_placement_group(self, *context: Any) -> PlacementGroupHandle:
        if self.group is not None:
            handle: PlacementGroupHandle = TrialReservation(self.group)
        else:
            handle = super()._create_placement_group(*context)
        ray.get(self.monitor.reserve.remote(handle.placement_group))
        return handle

    def _start(self) -> None:
        """Start the workers, or free what they hold; Ray keeps it if one dies late in its start."""
        try:
            super()._start()
        except Exception:
            if self.has_started():
                self.get_worker_group_state().shutdown()
                self._clear_state()
            raise


class TrainControllerBesideDriver(TrainController):
    """Ray's controller, spared by the kernel, with its workers in a trial's resources if any."""

    def __init__(self, *, monitor: Any, group: Any, **settings: Any) -> None:
        """Take what the workers need, and Ray's settings.

        Args:
            monitor: the handle of the ``HeartbeatMonitor``.
            group: the placement group of the trial; None outside of trials.
            settings: of Ray's controller.
        """
        spare_from_kernel()
        known = {"monitor": monitor, "group": group}
        self.worker_group_cls = type("WorkerGroup", (KnownWorkerGroup,), known)
        super().__init__(**settings)

    async def _run_control_loop_iteration(self) -> None:
        """Pause between two looks for resources; Ray's loop would keep a core busy meanwhile."""
        before = self.get_state()
        await super()._run_control_loop_iteration()
        if self.get_state() is before:
            await asyncio.sleep(PAUSE_S)


class SharingPolicy(ElasticScalingPolicy):
    """Ray's elastic policy, which runs the largest allowed number of workers that has resources.

    Runs in Ray Train's controller.
    """

    def __init__(self, scaling_config: ScalingConfig, sizes: Sequence[int]) -> None:
        """Take the allowed numbers of workers.

        Args:
            scaling_config: of the training, from the smallest to the largest of ``sizes``.
            sizes: the allowed numbers of workers.
        """
        super().__init__(scaling_config)
        self.sizes = tuple(sizes)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Let no resources be kept for trainings that were killed, and decide as Ray does."""
        withdraw_requests_of_dead()
        return super().make_decision_for_non_running_worker_group()

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """Return the largest allowed number that fits the resources; 0 if none fits."""
        possible = super()._count_possible_workers(reserved_resources)
        return max((size for size in self.sizes if size <= possible), default=0)


class SharingTrainer(TorchTrainer):
    """Ray's trainer on one of several numbers of workers. On the driver.

    In a Tune trial, the workers take the bundles of the trial's placement group. Ray's own trainer
    would reserve their resources a second time, and wait for those of the other trials.
    """

    def __init__(
        self,
        *args: Any,
        sizes: Sequence[int],
        monitor: Any,
        failure_policy: FailurePolicy,
        **settings: Any,
    ) -> None:
        """Take Ray's arguments.

        Args:
            args: of the trainer.
            sizes: the allowed numbers of workers; a single one is not elastic.
            monitor: the handle of the ``HeartbeatMonitor``, which learns the workers' reservation.
            failure_policy: decides in the controller what follows a failure.
            settings: of the trainer; its scaling configuration goes from the smallest to the
                largest of ``sizes``.
        """
        super().__init__(*args, **settings)
        self.sizes = tuple(sizes)
        self.monitor = monitor
        self.failure_policy = failure_policy
        self.controller: Any = None

    def abort(self) -> None:
        """End the controller and its workers; :meth:`fit` raises an error then.

        The controller's own method would wait until it has found resources for the workers.
        """
        if self.controller is not None:
            ray.kill(self.controller)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the driver, which saves first; Ray's handler would abort the run."""
        self.controller = controller

    def _policies(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"failure_policy": self.failure_policy}
        if len(self.sizes) > 1:
            chosen["scaling_policy"] = SharingPolicy(self.scaling_config, self.sizes)
        return chosen

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Run Ray's controller with the policies above. It reserves its memory."""
        settings |= self._policies()
        variables = get_env_vars_to_propagate()
        variables.setdefault(RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR, "0")
        controller = ray.remote(
            num_cpus=0,
            memory=CONTROLLER_BYTES,
            scheduling_strategy=on_this_node(),  # Not in the trial's bundles, which are full.
            **name_controller(self),
            runtime_env={"env_vars": variables},
        )(TrainControllerBesideDriver).remote(
            monitor=self.monitor, group=get_current_placement_group(), **settings
        )
        self._register_sigint_handler(controller)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())

    def _create_default_callbacks(self) -> list[Any]:
        """Return Ray's callbacks without two that start actors.

        One is for Ray Data's sets, and workers read shards themselves. The other frees a dead
        controller's resources, which is the driver's part here.
        """
        left_out: tuple[type, ...] = (PlacementGroupCleanerCallback,)
        if not self.datasets:
            left_out += (DatasetsCallback,)
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, left_out)]
