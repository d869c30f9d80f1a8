"""The ingress on Ray Serve, and its calls to the replicas."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from infill.pipeline.config import from_dict
from infill.pipeline.images import Pixels
from infill.pipeline.serving.config import ReplicaConfig
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.door import bound_uvicorn
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.json_logs import log_as_json
from infill.pipeline.serving.node_counts import ProcessNumber
from infill.pipeline.serving.replica.batcher import Batcher
from infill.pipeline.serving.replica.listening import wait_for_ports
from infill.pipeline.serving.replica.replica import GeneratedTile, Replica, ServedModel

CALLS_PER_REPLICA = 2
"""Concurrent calls per replica: one that is computed, and one that waits."""
MAX_CALL_BYTES = 16 * 2**20
"""Maximum size of a call and of its response, unless a single tile is larger."""


def application(args: dict[str, Any]) -> Any:
    """Build the Serve application. Runs in a task of Serve's, by its import path.

    Serve takes only functions of one parameter.
    """
    return application_with(args)


def application_with(args: dict[str, Any], *beside: Any) -> Any:
    """Build the Serve application.

    Args:
        args: settings of the deployments.
        beside: further deployments that belong to the application.
    """
    from ray import serve

    replica = serve.deployment(name="replica")(Replica)
    ingress = serve.deployment(name="ingress")(serve.ingress()(Ingress))
    computing = from_dict(ReplicaConfig, args["replica"])
    return ingress.bind(
        replica.bind(computing),
        from_dict(HttpConfig, args["app"]),
        computing,
        args["replicas"],
        *beside,
    )


def log_folder() -> Path:
    """Return where Ray Serve keeps the logs of this node, and the ingress its own."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return Path(get_serve_logs_dir())


class Ingress:
    """The HTTP side, in a replica of ``ingress``; there may be many."""

    def __init__(
        self,
        replicas: Any,
        config: HttpConfig,
        computing: ReplicaConfig,
        most_replicas: int,
        *beside: Any,
    ) -> None:
        del beside  # Serve starts what is bound here.
        log_as_json(log_folder())
        bound_uvicorn(config.limits)
        wait_for_ports()
        self._backend = _Replicas(replicas, config.limits.retry_after_s, computing, most_replicas)
        self._config = config
        self._process = ProcessNumber(log_folder().parents[1] / "infill-ingress")

    def __serve_build_asgi_app__(self) -> Any:  # noqa: N807, Serve's own name
        """Return the ASGI application for Serve."""
        return create_app(self._backend, self._config, process=self._process)


_ENVELOPE_BYTES = 2**16  # what a message holds beside pixels
_Tile = tuple[Pixels, Pixels, int | None]
"""Image, mask and seed."""


class _Kind(NamedTuple):
    """The common properties of the tiles of one call."""

    wanted: str
    height: int
    width: int
    samples: int

    @property
    def bytes(self) -> int:
        """Size of a tile or of its predictions, whichever is larger."""
        return self.height * self.width * max(4, 3 * self.samples)


class _Replicas:
    """The backend behind a Serve handle.

    A call costs about a millisecond of Python at either end, during which the replica's network
    waits: tiles that arrive while all replicas are busy are sent together. A call that is larger
    than a message of gRPC may be passes through Ray's object store.
    """

    def __init__(
        self, handle: Any, retry_after_s: int, computing: ReplicaConfig, most_replicas: int
    ) -> None:
        from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH

        self._handle = handle
        self._large_handle = handle.options(_by_reference=True)
        self._message_bytes = RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH - _ENVELOPE_BYTES
        self._retry_after_s = retry_after_s
        self._computing = computing
        self._calls: Batcher[_Kind, _Tile, GeneratedTile | RequestError] = Batcher(
            self._call,
            self._batch_size,
            wait_s=0,
            at_once=CALLS_PER_REPLICA * most_replicas,
        )

    def _batch_size(self, kind: "_Kind") -> int:
        """Return how many tiles a call carries."""
        most = self._computing.batch_size(kind.height, kind.width, kind.samples)
        return max(min(most, MAX_CALL_BYTES // kind.bytes), 1)

    async def fill(
        self,
        wanted: str,
        image: Pixels,
        mask: Pixels,
        samples: int,
        seed: int | None,
        background: bool,
    ) -> GeneratedTile:
        height, width = mask.shape
        kind = _Kind(wanted, height, width, samples)
        filled = await self._calls.submit(kind, (image, mask, seed), background)
        if isinstance(filled, RequestError):
            raise filled
        return filled

    async def _call(
        self, kind: "_Kind", tiles: Sequence[_Tile]
    ) -> list[GeneratedTile | RequestError]:
        fits = len(tiles) * kind.bytes <= self._message_bytes
        handle = self._handle if fits else self._large_handle
        with _unwrapped(self._retry_after_s):
            filled: list[GeneratedTile | RequestError] = await handle.fill_many.remote(
                kind.wanted, tiles, kind.samples
            )
            return filled

    async def describe(self) -> list[ServedModel]:
        with _unwrapped(self._retry_after_s):
            models: list[ServedModel] = await self._handle.describe.remote()
            return models


@contextlib.contextmanager
def _unwrapped(retry_after_s: int) -> Any:
    """Turn Ray's exceptions into error responses."""
    from ray.exceptions import RayActorError, RayTaskError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    try:
        yield
    except BackPressureError as error:
        raise RequestError(503, "busy", "too many requests are waiting", retry_after_s) from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise RequestError(
            503, "not_ready", "a replica has died and is being replaced; try again", retry_after_s
        ) from error
    except RayTaskError as error:
        if isinstance(error.cause, RequestError):
            raise error.cause from None
        raise
