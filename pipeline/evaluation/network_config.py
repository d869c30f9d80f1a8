"""The configuration of the metric networks: where their weights are."""

from dataclasses import dataclass

from infill.pipeline import downloads, storage
from infill.pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Files of the metrics' networks; a metric whose network has no file is left out."""

    inception: str = ""
    """For FID, KID and IS: TensorFlow's Inception of 2015 as a PyTorch state dict, pytorch-fid's
    pt_inception-2015-12-05-6726825d.pth."""
    inception_sha256: str = ""
    """SHA-256 of that file; needed for a download."""
    places365: str = ""
    """For PEN-Net's inception score: a classifier of Places365, its authors'
    resnet18_places365.pth.tar or resnet50_places365.pth.tar."""
    places365_sha256: str = ""
    """SHA-256 of that file; needed for a download."""
    lpips_backbone: str = ""
    """For LPIPS: torchvision's AlexNet, alexnet-owt-7be5be79.pth; needs ``lpips_linear`` too."""
    lpips_backbone_sha256: str = ""
    """SHA-256 of that file; needed for a download."""
    lpips_linear: str = ""
    """For LPIPS: its weights v0.1 for AlexNet, the authors' alex.pth; needs ``lpips_backbone``
    too."""
    lpips_linear_sha256: str = ""
    """SHA-256 of that file; needed for a download."""

    def __post_init__(self) -> None:
        """Refuse half of LPIPS, and downloads without a checksum."""
        if bool(self.lpips_backbone) != bool(self.lpips_linear):
            raise UserError("LPIPS needs two files: give both lpips_backbone and lpips_linear")
        for location, checksum in self.files:
            if storage.is_remote(location) and not checksum:
                raise UserError(f"{location} is a download: give its SHA-256 as well")

    @property
    def files(self) -> list[tuple[str, str]]:
        """Location and checksum of every file that is given."""
        files = [
            (self.inception, self.inception_sha256),
            (self.places365, self.places365_sha256),
            (self.lpips_backbone, self.lpips_backbone_sha256),
            (self.lpips_linear, self.lpips_linear_sha256),
        ]
        return [(location, checksum) for location, checksum in files if location]

    @property
    def given(self) -> tuple[str, ...]:
        """The metrics whose weights are given."""
        from infill.pipeline.metrics.metric_registry import OF_NETWORKS

        networks = {
            "inception": self.inception,
            "places365": self.places365,
            "lpips": self.lpips_linear,
        }
        return tuple(name for name, m in OF_NETWORKS.items() if networks.get(m.network))

    def require_files(self) -> None:
        """Check that local files exist and match their checksums.

        Raises:
            UserError: if a file is missing or differs.
        """
        for location, checksum in self.files:
            if not storage.is_remote(location):
                downloads.fetch(location, checksum or None)
