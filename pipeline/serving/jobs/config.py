"""The configuration of jobs."""

from dataclasses import dataclass, replace

from infill.pipeline import database_addresses, storage
from infill.pipeline.errors import UserError

_DATABASES = ("", "registry", "sqlite", "postgresql", "postgresql+psycopg2")


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """Where jobs are kept, and their limits. An empty ``folder`` turns jobs off."""

    folder: str = ""
    """Folder or s3:// prefix for uploads and results of jobs. Empty: the service takes no jobs."""
    database: str = ""
    """Database of the jobs: SQLite, or PostgreSQL as ``postgresql://user@host/name`` (password in
    PGPASSWORD; needs ``infill[postgres]``). Empty: SQLite in ``folder``. "registry": the
    registry's database."""
    prefixes: tuple[str, ...] = ()
    """The s3:// prefixes (or folders) whose images jobs may read, such as ``s3://photos/2024``."""
    max_jobs: int = 8
    """Maximum number of unfinished jobs of one API key."""
    max_pairs: int = 10_000
    """Maximum number of images of one job."""
    num_actors: int = 1
    """Number of Ray actors that hold the model of a job."""
    cpus_per_actor: float = 1.0
    """CPUs that each of these actors reserves."""
    webhook_secret_file: str = ""
    """File with the secret that signs webhooks. Empty: jobs take no webhook."""
    webhook_attempts: int = 8
    """Number of attempts to deliver a webhook, a minute or more apart at the end."""
    private_webhooks: bool = False
    """Whether webhooks may go to private and loopback addresses."""
    keep_days: float = 7.0
    """Days after which files and record of a finished job are deleted."""
    lease_s: float = 30.0
    """Seconds without a sign of life after which a job of a killed service is taken over."""

    def __post_init__(self) -> None:
        storage.refuse_password(self.database)
        if self.database.partition("://")[0] not in _DATABASES:
            raise UserError(
                f"jobs.database {self.database}: give sqlite:///PATH, postgresql://USER@HOST/NAME, "
                'or "registry"'
            )
        for name in ("max_jobs", "max_pairs", "num_actors", "webhook_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if storage.is_remote(self.folder) and not self.database:
            raise UserError(
                f"jobs.folder {self.folder} is not on this machine: give --jobs.database as well"
            )

    @property
    def database_url(self) -> str:
        """The database's address for SQLAlchemy."""
        return self.database or f"sqlite:///{storage.absolute(self.folder)}/jobs.db"

    def everywhere(self, registry_uri: str) -> "JobsConfig":
        """Return these settings for processes with other working directories.

        Args:
            registry_uri: address of the registry's database.

        Raises:
            UserError: if the registry is wanted and is a server, or a driver is missing.
        """
        database = registry_uri if self.database == "registry" else self.database
        if database.startswith(("http://", "https://")):
            raise UserError(
                "jobs.database: the registry is a server here, which keeps no jobs; give the "
                "address of a database"
            )
        database = database_addresses.database_uri(database)
        folder, secret = (
            storage.absolute(path) if path else ""
            for path in (self.folder, self.webhook_secret_file)
        )
        return replace(self, database=database, folder=folder, webhook_secret_file=secret)

    def secret(self) -> bytes:
        """Return the secret of webhooks, b"" if there is none.

        Raises:
            UserError: if the file is missing or empty.
        """
        if not self.webhook_secret_file:
            return b""
        try:
            secret = storage.read(self.webhook_secret_file).strip()
        except FileNotFoundError as error:
            raise UserError(
                f"webhook_secret_file: there is no file {self.webhook_secret_file}"
            ) from error
        if len(secret) < 16:
            raise UserError(f"{self.webhook_secret_file} holds fewer than 16 characters")
        return secret

    def allows(self, location: str) -> bool:
        """Return whether jobs may read the images at a location."""
        parts = location.split("/")
        if any(part in ("..", ".") for part in parts) or any(ord(c) < 32 for c in location):
            return False
        inside = location.rstrip("/") + "/"
        return any(inside.startswith(prefix.rstrip("/") + "/") for prefix in self.prefixes)
