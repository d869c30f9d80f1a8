"""Elastic numbers of workers: only those that share the global batch equally."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


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

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        """Return the largest allowed number that fits the resources; 0 if none fits."""
        possible = super()._count_possible_workers(reserved_resources)
        return max((size for size in self.sizes if size <= possible), default=0)


class SharingTrainer(TorchTrainer):
    """Ray's trainer on one of several numbers of workers. On the driver."""

    def __init__(self, *args: Any, sizes: Sequence[int], **settings: Any) -> None:
        """Take Ray's arguments.

        Args:
            args: of the trainer.
            sizes: the allowed numbers of workers; a single one is not elastic.
            settings: of the trainer; its scaling configuration goes from the smallest to the
                largest of ``sizes``.
        """
        super().__init__(*args, **settings)
        self.sizes = tuple(sizes)
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

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Run Ray's controller with the policy above."""
        if len(self.sizes) > 1:
            settings["scaling_policy"] = SharingPolicy(self.scaling_config, self.sizes)
        return super()._initialize_and_run_controller(**settings)
