"""The configuration of the service and of its replicas."""

from dataclasses import dataclass, field

from infill.pipeline.inference.config import TilingConfig, tiles_per_pass
from infill.pipeline.registry import RegistryConfig
from infill.pipeline.serving.limits import LimitsConfig


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """How a replica computes."""

    device: str = "cpu"
    """"cpu" or "cuda"."""
    threads: int = 1
    """CPU threads of one pass through the network."""
    max_batch_size: int = 8
    """Canvases in one pass, at most."""
    max_batch_px: int = 8 * 512 * 512
    """Canvas pixels in one pass, at most; a single canvas always passes."""
    batch_wait_timeout_s: float = 0.002
    """How long a request waits for company when the network is idle."""
    warm_sides_px: tuple[int, ...] = ()
    """Of square canvases that a version predicts before it answers, beside the side it was trained
    at: the first pass of a shape is slow, on a GPU above all."""
    memory_gb: float = 0.0
    """For the weights of all models together: what was not asked for the longest is let go, and
    loaded again when it is asked for. 0 holds all of them."""

    def batch_size(self, height: int, width: int, samples: int = 1) -> int:
        """Return how many canvases of a size, each sampled ``samples`` times, pass at once."""
        return tiles_per_pass(height, width, samples, self.max_batch_size, self.max_batch_px)

    def __post_init__(self) -> None:
        for name in ("threads", "max_batch_size", "max_batch_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.memory_gb < 0:
            raise ValueError(f"memory_gb must not be negative: {self.memory_gb}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What is served, where, and at what cost."""

    model: str = "spn@champion"
    """Answers requests that name no model: ``spn@champion``, ``spn@3`` or a checkpoint's path."""
    more_models: tuple[str, ...] = ()
    """Further models, which requests choose by name."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 opens the service to the network."""
    port: int = 8000
    """TCP port; 0 takes a free one."""
    num_replicas: int = 1
    """Processes that hold the models; the least of them, with ``max_replicas``."""
    max_replicas: int = 0
    """So many at most, as many as the load asks for; 0 keeps ``num_replicas``."""
    upscale_delay_s: float = 10.0
    """How long there must be more load than replicas before one is added; taking one away waits
    ten times as long."""
    cpus_per_replica: float = 1.0
    """CPUs each of them reserves; it computes with as many threads, at least one."""
    use_gpu: bool = False
    """One GPU for each replica instead of the CPU."""
    refresh_s: float = 10.0
    """How often aliases such as ``@champion`` are looked up again; 0 is never."""
    canary_share: float = 0.0
    """Share of the requests that a new version answers at first, such as 0.1; should it fail, the
    old one answers them and stays. 0: a new version answers all at once."""
    canary_s: float = 60.0
    """How long it does."""
    max_batch_size: int = 8
    """Canvases in one pass through the network, at most."""
    memory_gb: float = 0.0
    """In each replica, for the weights of all models together: those not asked for the longest are
    let go, and loaded again when they are. 0 holds all of them."""
    batch_wait_timeout_s: float = 0.002
    """How long a request waits for company when the network is idle."""
    keys: str = ""
    """File of API keys, made by ``jobs/make_key.py``; anyone may ask if empty."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may cost."""
    canvas: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size meet the network."""
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    """Where versions are kept."""
    print_config: bool = False
    """Print Serve's own configuration, for ``serve deploy`` or a RayService, and end."""

    def __post_init__(self) -> None:
        if self.num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, not {self.num_replicas}")
        if self.max_replicas and self.max_replicas < self.num_replicas:
            raise ValueError(
                f"max_replicas must be 0 or at least num_replicas, not {self.max_replicas}"
            )
        if not 0 <= self.canary_share <= 1:
            raise ValueError(f"canary_share must be 0 to 1, not {self.canary_share}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")

    @property
    def replica(self) -> ReplicaConfig:
        """How each replica computes."""
        return ReplicaConfig(
            device="cuda" if self.use_gpu else "cpu",
            threads=max(int(self.cpus_per_replica), 1),
            max_batch_size=self.max_batch_size,
            batch_wait_timeout_s=self.batch_wait_timeout_s,
            warm_sides_px=self.canvas.sides_px if self.use_gpu else (),
            memory_gb=self.memory_gb,
        )
