"""The configuration of the service and of its replicas."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import Precision, TilingConfig, tiles_per_pass
from infill.pipeline.pretrained import DEFAULT
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.limits import LimitsConfig

MAX_INGRESSES = 16
"""Maximum number of ingresses of a machine."""
CORES_OF_TWO_INGRESSES = 4
"""Number of cores from which a machine has two ingresses by default."""


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """The device, batches and model cache of a replica."""

    device: str = "cpu"
    """The device: "cpu" or "cuda"."""
    gpu_memory_share: float = 1.0
    """Share of the GPU's memory that the replica may use."""
    precision: Precision = "float32"
    """Data type of convolutions and matrix products, by autocast."""
    compile: bool = False
    """Whether ``torch.compile`` compiles each generator."""
    threads: int = 1
    """Number of CPU threads of a forward pass."""
    max_batch_size: int = 8
    """Maximum number of tiles in one forward pass."""
    max_batch_px: int = 8 * 512 * 512
    """Maximum number of tile pixels in one forward pass; a single tile is always accepted."""
    batch_wait_timeout_s: float = 0.002
    """Batching timeout: seconds that a request waits for others while the network is idle."""
    warm_sides_px: tuple[int, ...] = ()
    """Sides of square tiles that a new version predicts before it receives requests, beside its
    training size. The first pass of a shape is slow, above all on a GPU. A version for whose
    largest tile the memory does not suffice is refused here, before it has requests."""
    warm_batches: bool = False
    """Whether it predicts each of them in batches of 1, 2, 4 and so on up to the largest batch,
    instead of in batches of one."""
    memory_gb: float = 0.0
    """Size of the LRU cache of models, in GB of weights. Models that do not fit are unloaded and
    loaded again on request; 0 keeps all in memory."""

    def batch_size(self, height: int, width: int, samples: int = 1) -> int:
        """Return the batch size for tiles of a size, each sampled ``samples`` times."""
        return tiles_per_pass(height, width, samples, self.max_batch_size, self.max_batch_px)

    def warm_batch_sizes(self, side: int) -> list[int]:
        """Return the batch sizes with which a new version predicts square tiles of a side."""
        if not self.warm_batches:
            return [1]
        most = max(1, self.batch_size(side, side))
        return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]

    def __post_init__(self) -> None:
        for name in ("threads", "max_batch_size", "max_batch_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.memory_gb < 0:
            raise ValueError(f"memory_gb must not be negative: {self.memory_gb}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The models of the service, its address, and its resources."""

    model: str = DEFAULT
    """The default model, for requests that name none: ``infill-base``, which comes with the
    package, ``spn@champion``, ``spn@3`` or a checkpoint's path."""
    more_models: tuple[str, ...] = ()
    """Further models, which requests choose by name."""
    aliases: tuple[str, ...] = ()
    """Further names of models, such as ``gpt-image-1=spn@champion``, for clients that name models
    themselves."""
    licences: tuple[str, ...] = ()
    """Licences of models that ``/v1/models`` shows, such as ``spn=CC-BY-4.0``."""
    traces: str = ""
    """Address of an OpenTelemetry collector for traces of requests (OTLP over HTTP), such as
    ``http://127.0.0.1:4318/v1/traces``; needs ``infill[traces]``. Empty: no traces."""
    web_app: str = ""
    """Folder of a built web application that is served at / in place of the page, such as
    ``iopaint/web_app`` of IOPaint's package. It sends no API key."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    num_replicas: int = 1
    """Number of replicas, the processes that hold the models; the minimum number if
    ``max_replicas`` is given."""
    max_replicas: int = 0
    """Maximum number of replicas (autoscaling); 0 turns autoscaling off."""
    ingress_replicas: int = 0
    """Number of ingresses, the processes that speak HTTP and decode. Those of one machine share its
    port and count limits together: if one dies, the others go on. 0 chooses 2 on a machine of four
    cores or more, else 1."""
    upscale_delay_s: float = 10.0
    """Seconds of overload before a replica is added. Removing one takes ten times as long."""
    cpus_per_replica: float = 1.0
    """CPUs that each replica reserves. PyTorch uses as many threads, at least one."""
    use_gpu: bool = False
    """Whether each replica gets a GPU, or ``gpus_per_replica`` of one, instead of CPUs only."""
    gpus_per_replica: float = 1.0
    """Share of a GPU that each replica takes with ``use_gpu``: at most 1. With 0.25 four replicas
    share a GPU, and each may use a quarter of its memory."""
    precision: Precision = "float32"
    """Data type of convolutions and matrix products, by autocast. With "bfloat16" results
    differ by a few of 255 levels."""
    compile: bool = False
    """Whether ``torch.compile`` compiles each generator. A new version then takes minutes until it
    answers."""
    refresh_s: float = 10.0
    """Seconds between two look-ups of aliases such as ``@champion``; 0 looks them up once."""
    canary_share: float = 0.0
    """Share of the requests that a new version serves at first, such as 0.1. If it fails, the old
    version serves them and stays. 0 switches to a new version at once."""
    canary_s: float = 60.0
    """Duration of that canary phase in seconds."""
    max_batch_size: int = 8
    """Maximum number of tiles in one forward pass."""
    max_batch_px: int = 8 * 512 * 512
    """Maximum number of tile pixels in one forward pass; a single tile is always accepted. It
    bounds a replica's memory. On a GPU, two passes are in flight at a time."""
    memory_gb: float = 0.0
    """Size of each replica's LRU cache of models, in GB of weights. Models that do not fit are
    unloaded and loaded again on request; 0 keeps all in memory."""
    batch_wait_timeout_s: float = 0.002
    """Batching timeout: seconds that a request waits for others while the network is idle."""
    keys: str = ""
    """File of API keys, made by ``jobs/make_key.py``. Empty: the service needs no key."""
    cors_origins: tuple[str, ...] = ()
    """Origins, such as https://app.example.org, whose pages may call the service; "*" for all."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the service answers, from the Host header; empty: all."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Limits of requests: size, memory, time."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size are tiled."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    """Where jobs of many images are kept, and their limits."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """The model registry."""
    print_config: bool = False
    """Whether to print Serve's own configuration, for ``serve deploy`` or a RayService, and not to
    serve."""

    def __post_init__(self) -> None:
        if self.num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, not {self.num_replicas}")
        if self.max_replicas and self.max_replicas < self.num_replicas:
            raise ValueError(
                f"max_replicas must be 0 or at least num_replicas, not {self.max_replicas}"
            )
        if not 0 <= self.ingress_replicas <= MAX_INGRESSES:
            raise ValueError(
                f"ingress_replicas must be 0 to {MAX_INGRESSES}, not {self.ingress_replicas}"
            )
        if not 0 < self.gpus_per_replica <= 1:
            raise ValueError(
                f"gpus_per_replica must be above 0 and at most 1, not {self.gpus_per_replica:g}: "
                "a replica computes on one GPU"
            )
        if self.gpus_per_replica < 1 and not self.use_gpu:
            raise ValueError("gpus_per_replica needs use_gpu: replicas are on CPUs without it")
        if self.max_batch_px < 1:
            raise ValueError(f"max_batch_px must be at least 1, not {self.max_batch_px}")
        for pair in (*self.aliases, *self.licences):
            if not all(pair.partition("=")):
                raise ValueError(f"aliases and licences are NAME=VALUE, not {pair!r}")
        if self.web_app and not Path(self.web_app, "index.html").is_file():
            raise UserError(f"web_app: there is no {self.web_app}/index.html")
        if not 0 <= self.canary_share <= 1:
            raise ValueError(f"canary_share must be 0 to 1, not {self.canary_share}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")

    @property
    def num_ingresses(self) -> int:
        """The number of ingresses."""
        if self.ingress_replicas:
            return self.ingress_replicas
        return 2 if (os.cpu_count() or 1) >= CORES_OF_TWO_INGRESSES else 1

    @property
    def replica(self) -> ReplicaConfig:
        """The settings of each replica."""
        return ReplicaConfig(
            device="cuda" if self.use_gpu else "cpu",
            gpu_memory_share=self.gpus_per_replica,
            precision=self.precision,
            compile=self.compile,
            threads=max(int(self.cpus_per_replica), 1),
            max_batch_size=self.max_batch_size,
            max_batch_px=self.max_batch_px,
            batch_wait_timeout_s=self.batch_wait_timeout_s,
            warm_sides_px=self.tiling.all_sides_px if self.use_gpu else self.tiling.added_px,
            warm_batches=self.use_gpu or self.compile,
            memory_gb=self.memory_gb,
        )
