"""The database of jobs: SQLite or PostgreSQL. Each call is one transaction."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sql

from infill.pipeline import storage
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs.idempotency import IdempotentRequest

Status = Literal["queued", "running", "done", "failed", "cancelled"]
UNFINISHED = ("queued", "running")
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 3600.0

_META = sql.MetaData()
_JOBS = sql.Table(
    "infill_jobs",
    _META,
    sql.Column("id", sql.String(32), primary_key=True),
    sql.Column("caller", sql.String(200), nullable=False, index=True),
    sql.Column("status", sql.String(16), nullable=False, index=True),
    sql.Column("created", sql.Float, nullable=False),
    sql.Column("started", sql.Float),
    sql.Column("finished", sql.Float),
    sql.Column("total", sql.Integer, nullable=False, default=0),
    sql.Column("done", sql.Integer, nullable=False, default=0),
    sql.Column("failed", sql.Integer, nullable=False, default=0),
    sql.Column("error", sql.Text, nullable=False, default=""),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("settings", sql.Text, nullable=False),
    sql.Column("owner", sql.String(32), nullable=False, default=""),
    sql.Column("seen", sql.Float, nullable=False, default=0.0),
    sql.Column("webhook", sql.Text, nullable=False, default=""),
    sql.Column("webhook_due", sql.Float),
    sql.Column("webhook_attempts", sql.Integer, nullable=False, default=0),
)
_KEYS = sql.Table(
    "infill_job_keys",
    _META,
    sql.Column("caller", sql.String(200), primary_key=True),
    sql.Column("key", sql.String(255), primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("job", sql.String(32), nullable=False, index=True),
)
"""The ``Idempotency-Key`` headers of each caller; one lives as long as its job."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job as the database has it; times are seconds since 1970."""

    id: str
    caller: str
    """Name of the API key."""
    status: Status
    created: float
    started: float | None
    finished: float | None
    total: int
    """Number of its images; 0 until they are listed."""
    done: int
    """Number of images that are finished, with or without a composite."""
    failed: int
    error: str
    """Why the job as a whole failed."""
    model: dict[str, str]
    """The version that inpaints, with the fields of a served model."""
    settings: dict[str, Any]
    """Where its images are, and the options of the request."""
    webhook: str
    webhook_attempts: int

    def public(self) -> dict[str, Any]:
        """Return what callers see."""
        facts = {name: getattr(self, name) for name in ("id", "status", "error")}
        times = {name: getattr(self, name) for name in ("created", "started", "finished")}
        return {
            **facts,
            "model": f"{self.model['name']}@{self.model['version']}",
            "progress": {"total": self.total, "done": self.done, "failed": self.failed},
            **times,
        }


class JobStore:
    """Reads and writes jobs; safe for several threads and processes.

    Args:
        config: the database.
        clock: seconds since 1970.
    """

    def __init__(self, config: JobsConfig, clock: Callable[[], float] = time.time) -> None:
        if not config.database:
            storage.make_folder(config.folder)
        self._config, self._clock = config, clock
        self._engine = sql.create_engine(config.database_url)
        _create_tables(self._engine)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add(
        self,
        identity: str,
        caller: str,
        model: Mapping[str, str],
        settings: Mapping[str, Any],
        webhook: str,
        request: IdempotentRequest | None = None,
    ) -> Job:
        """Add a queued job, unless ``request`` has created one already; return the job.

        Of several processes that add the same request at once, one adds the job. All of them
        together give a caller ``max_jobs`` unfinished jobs.

        Raises:
            RequestError: 422 if the key was used for another request, 429 if the caller has
                ``max_jobs`` unfinished jobs.
        """
        row = {
            "id": identity,
            "caller": caller,
            "status": "queued",
            "created": self._clock(),
            "total": int(settings.get("pairs", 0)),
            "model": json.dumps(model),
            "settings": json.dumps(settings),
            "webhook": webhook,
        }
        while (found := self.created_by(caller, request)) is None:
            if self._insert(row, request):
                found = self.get(identity)
                assert found is not None
                break
            self.refuse_too_many(caller, request)
        return found

    def refuse_too_many(self, caller: str, request: IdempotentRequest | None) -> None:
        """Raise if the caller cannot create a job that ``request`` has not created already.

        Another process may be adding the job of this request, with its key: the key is looked for
        after the job was counted.

        Raises:
            RequestError: 429 if the caller has ``max_jobs`` unfinished jobs, 422 if the key was
                used for another request.
        """
        if self.unfinished(caller) < self._config.max_jobs:
            return
        if self.created_by(caller, request) is not None:
            return
        raise RequestError(
            429,
            "too_many_jobs",
            f"you have {self._config.max_jobs} unfinished jobs: wait for one, or cancel one",
            60,
        )

    def created_by(self, caller: str, request: IdempotentRequest | None) -> Job | None:
        """Return the job that a request with this key has created, or None.

        Raises:
            RequestError: 422 if the key was used for another request.
        """
        if request is None:
            return None
        own = (_KEYS.c.caller == caller) & (_KEYS.c.key == request.key)
        query = sql.select(_JOBS, _KEYS.c.digest).join(_KEYS, _KEYS.c.job == _JOBS.c.id).where(own)
        with self._engine.begin() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        if request.digest not in ("", row["digest"]):
            raise RequestError(
                422,
                "key_reused",
                f"header Idempotency-Key: this key has created job {row['id']} of another "
                "request: send the same request, or another key",
            )
        return _job(row)

    def _insert(self, row: Mapping[str, Any], request: IdempotentRequest | None) -> bool:
        """Insert a job and its key; return False if the key is taken, or the caller's jobs full."""
        values = [sql.literal(value, _JOBS.c[name].type) for name, value in row.items()]
        count = _count_unfinished(row["caller"]).scalar_subquery()
        if_room = sql.select(*values).where(count < self._config.max_jobs)
        try:
            with self._engine.begin() as connection:
                _let_in_alone(connection, row["caller"])
                statement = _JOBS.insert().from_select(list(row), if_room, include_defaults=True)
                if not connection.execute(statement).rowcount:
                    return False
                if request is not None:
                    key = {"caller": row["caller"], "job": row["id"], **vars(request)}
                    connection.execute(_KEYS.insert().values(key))
        except sql.exc.IntegrityError:
            if request is None:
                raise
            return False
        return True

    def get(self, identity: str) -> Job | None:
        """Return a job, or None."""
        found = self._select(_JOBS.c.id == identity)
        return found[0] if found else None

    def of_caller(self, caller: str) -> list[Job]:
        """Return a caller's jobs, newest first."""
        return self._select(_JOBS.c.caller == caller)[::-1]

    def newest(self, most: int = 1000) -> list[Job]:
        """Return the newest jobs of all callers, newest first."""
        query = sql.select(_JOBS).order_by(_JOBS.c.created.desc(), _JOBS.c.id.desc()).limit(most)
        with self._engine.begin() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def unfinished(self, caller: str) -> int:
        """Return the number of a caller's jobs that are queued or running."""
        with self._engine.begin() as connection:
            return connection.execute(_count_unfinished(caller)).scalar_one()

    def claim(self, owner: str) -> Job | None:
        """Take the oldest job that is queued, or whose runner has died; None if there is none."""
        now = self._clock()
        dead = (_JOBS.c.status == "running") & (_JOBS.c.seen < now - self._config.lease_s)
        free = (_JOBS.c.status == "queued") | dead
        for job in self._select(free):
            taken = {"status": "running", "owner": owner, "seen": now}
            taken |= {"started": job.started or now}
            if self._execute(_JOBS.update().where(free, _JOBS.c.id == job.id).values(taken)):
                return job
        return None

    def advance(self, job: Job, owner: str, total: int, done: int, failed: int) -> bool:
        """Record progress; False if the job was cancelled or taken over."""
        values = {"total": total, "done": done, "failed": failed, "seen": self._clock()}
        return self._update_own(job, owner, values)

    def keep_alive(self, job: Job, owner: str) -> None:
        """Record that the job's runner is alive."""
        self._update_own(job, owner, {"seen": self._clock()})

    def finish(self, job: Job, owner: str, status: Status, error: str = "") -> bool:
        """Record the end of a job; False if it was cancelled or taken over."""
        return self._update_own(job, owner, {**self._end(status), "error": error})

    def cancel(self, identity: str) -> None:
        """Cancel a job, unless it has ended."""
        going = _JOBS.c.status.in_(UNFINISHED)
        statement = _JOBS.update().where(_JOBS.c.id == identity, going)
        self._execute(statement.values(self._end("cancelled")))

    def delete(self, identity: str) -> None:
        """Delete a job's record, and the key that created it."""
        with self._engine.begin() as connection:
            connection.execute(_JOBS.delete().where(_JOBS.c.id == identity))
            connection.execute(_KEYS.delete().where(_KEYS.c.job == identity))

    def expired(self) -> list[Job]:
        """Return the jobs that ended longer ago than they are kept."""
        return self._select(_JOBS.c.finished < self._clock() - 86400 * self._config.keep_days)

    def due_webhooks(self) -> list[Job]:
        """Return the ended jobs whose webhook is to be sent now."""
        return self._select(_JOBS.c.webhook_due <= self._clock())

    def webhook_sent(self, job: Job, delivered: bool) -> None:
        """Record an attempt to send a webhook, and when the next one is due."""
        attempts = job.webhook_attempts + 1
        due = None
        if not delivered and attempts < self._config.webhook_attempts:
            due = self._clock() + min(_FIRST_RETRY_S * 4**job.webhook_attempts, _LONGEST_RETRY_S)
        values = {"webhook_due": due, "webhook_attempts": attempts}
        self._execute(_JOBS.update().where(_JOBS.c.id == job.id).values(values))

    def _end(self, status: Status) -> dict[str, Any]:
        now = self._clock()
        due = sql.case((_JOBS.c.webhook != "", sql.literal(now)), else_=sql.null())
        return {"status": status, "finished": now, "webhook_due": due}

    def _update_own(self, job: Job, owner: str, values: dict[str, Any]) -> bool:
        own = (_JOBS.c.id == job.id) & (_JOBS.c.owner == owner) & (_JOBS.c.status == "running")
        return self._execute(_JOBS.update().where(own).values(values)) > 0

    def _execute(self, statement: sql.Update) -> int:
        with self._engine.begin() as connection:
            return int(connection.execute(statement).rowcount)

    def _select(self, condition: sql.ColumnElement[bool]) -> list[Job]:
        query = sql.select(_JOBS).where(condition).order_by(_JOBS.c.created, _JOBS.c.id)
        with self._engine.begin() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]


def _count_unfinished(caller: str) -> sql.Select[int]:
    own = (_JOBS.c.caller == caller) & _JOBS.c.status.in_(UNFINISHED)
    return sql.select(sql.func.count()).select_from(_JOBS).where(own)


def _let_in_alone(connection: sql.Connection, caller: str) -> None:
    """Let no other process count this caller's jobs until this one's job is added.

    SQLite adds one job at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        number = sql.func.hashtextextended(f"infill_jobs {caller}", 0)
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(number)))


def _create_tables(engine: sql.Engine) -> None:
    """Create the missing tables; another process may be creating them at this moment.

    An attempt fails only if another process has created a table meanwhile, so that as many attempts
    as there are tables, and one more, suffice.
    """
    for left in reversed(range(len(_META.tables) + 1)):
        try:
            _META.create_all(engine)
            return
        except sql.exc.DBAPIError:
            if not left:
                raise


def new_id() -> str:
    """Return an id that nobody guesses."""
    return uuid.uuid4().hex


def _job(row: Mapping[Any, Any]) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(
        **{**values, "model": json.loads(row["model"]), "settings": json.loads(row["settings"])}
    )
