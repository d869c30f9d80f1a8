"""Take jobs from the database one after the other, inpaint their images, send their webhooks.

Composites that are there are kept (see :mod:`infill.pipeline.batch_inference.runner`), so a job
whose runner died goes on where it stopped, in this runner or in another one.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from infill.pipeline import storage
from infill.pipeline.background import beside
from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.pairs import Pair
from infill.pipeline.batch_inference.ray_data import run_offline
from infill.pipeline.batch_inference.runner import Outcome, begin_folder, inpaint_folder
from infill.pipeline.error_sentences import sentence_of
from infill.pipeline.errors import UserError
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.jobs.config import JobsConfig
from infill.pipeline.serving.jobs.files import JobFiles
from infill.pipeline.serving.jobs.store import Job, JobStore
from infill.pipeline.serving.jobs.webhooks import send_webhook
from infill.pipeline.serving.limits import LimitsConfig
from infill.pipeline.serving.replica.replica import ServedModel, served_model

log = logging.getLogger("infill.serving")
Run = Callable[[ServedModel, BatchInferenceConfig, list[Pair]], Iterator[Outcome]]
_IDLE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """The settings of the runner of jobs."""

    jobs: JobsConfig
    """Where jobs are kept, and their limits."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Limits of images."""
    tiling: TilingConfig = field(default_factory=TilingConfig)
    """How images of any size are tiled."""
    batch_size: int = 8
    """Number of tiles in one forward pass."""
    use_gpu: bool = False
    """Whether each actor gets one GPU."""


class _EndedError(Exception):
    """The job was cancelled, or another runner has taken it over."""


class JobRunner:
    """Runs jobs until it is stopped.

    Args:
        config: the settings.
        run: inpaints pairs by a model and yields the outcome of each; on Ray Data by default.
    """

    def __init__(self, config: RunnerConfig, run: Run = run_offline) -> None:
        self._config, self._run = config, run
        self._store = JobStore(config.jobs)
        self._secret = config.jobs.secret()
        self._owner = uuid.uuid4().hex
        self._stop = threading.Event()

    def serve(self) -> None:
        """Run jobs and send webhooks until :meth:`stop`; a failure of the database is waited out.

        Blocks; webhooks have a thread of their own.
        """
        webhooks = threading.Thread(target=self._forever, args=(self.send_webhooks,), daemon=True)
        webhooks.start()
        self._forever(self.run_next)
        webhooks.join()
        self._store.close()

    def stop(self) -> None:
        """End :meth:`serve` after the image at hand; its job stays for the next runner."""
        self._stop.set()

    def _forever(self, work: Callable[[], bool]) -> None:
        while not self._stop.is_set():
            try:
                busy = work()
            except Exception:
                log.exception("jobs: the database or the store does not answer; trying again")
                busy = False
            if not busy:
                self._stop.wait(_IDLE_S)

    def run_next(self) -> bool:
        """Run the next job to its end; False if there is none."""
        self._forget_expired()
        job = self._store.claim(self._owner)
        if job is None:
            return False
        try:
            with self._heartbeat(job):
                self._inpaint(job)
        except _EndedError:
            log.info("job %s was cancelled or taken over", job.id)
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("job %s failed", job.id)
            self._store.finish(job, self._owner, "failed", sentence_of(error))
        else:
            self._store.finish(job, self._owner, "done")
        return True

    def send_webhooks(self) -> bool:
        """Send each webhook that is due once; False if none is."""
        due = self._store.due_webhooks()
        for job in due:
            sent = send_webhook(job, self._secret, self._config.jobs.private_webhooks)
            self._store.webhook_sent(job, sent)
        return bool(due)

    def _forget_expired(self) -> None:
        for job in self._store.expired():
            self._files(job).remove()
            self._store.delete(job.id)

    def _files(self, job: Job) -> JobFiles:
        return JobFiles(storage.join(self._config.jobs.folder, job.id))

    @contextmanager
    def _heartbeat(self, job: Job) -> Iterator[None]:
        """Show that this runner is alive, also while a model is loaded or a folder listed."""

        def send(over: threading.Event) -> None:
            while not over.wait(self._config.jobs.lease_s / 3):
                with suppress(Exception):  # the database is away: others may take over
                    self._store.keep_alive(job, self._owner)

        with beside(send, "heartbeat"):
            yield

    def _inpaint(self, job: Job) -> None:
        model = served_model(job.model)
        config = self._batch_config(job, model)
        work = begin_folder(config, model.label, say=log.info)
        total, kept = work.counts
        if total > self._config.jobs.max_pairs:
            raise UserError(
                f"{total:,} images are there; a job has at most {self._config.jobs.max_pairs:,}"
            )
        run = partial(self._counted, job, model, total, kept)
        log.info("job %s: %s", job.id, inpaint_folder(config, work, run, say=log.info))

    def _counted(
        self,
        job: Job,
        model: ServedModel,
        total: int,
        done: int,
        config: BatchInferenceConfig,
        pairs: list[Pair],
    ) -> Iterator[Outcome]:
        """Pass outcomes on and record the progress, until the job is cancelled."""
        failed = 0
        self._advance(job, total, done, failed)
        for outcome in self._run(model, config, pairs):
            done, failed = done + 1, failed + bool(outcome.failure)
            self._advance(job, total, done, failed)
            yield outcome

    def _advance(self, job: Job, total: int, done: int, failed: int) -> None:
        if self._stop.is_set() or not self._store.advance(job, self._owner, total, done, failed):
            raise _EndedError

    def _batch_config(self, job: Job, model: ServedModel) -> BatchInferenceConfig:
        settings, files, jobs = job.settings, self._files(job), self._config.jobs
        return BatchInferenceConfig(
            folder=settings.get("folder") or files.input,
            masks=settings.get("masks", ""),
            out=files.results,
            model=model.reference,
            mode=settings["mode"],
            mask_polarity=settings["mask_polarity"],
            mask_threshold=settings["mask_threshold"],
            mask_channel=settings["mask_channel"],
            output_format=settings["output_format"] or "png",
            batch_size=self._config.batch_size,
            num_actors=jobs.num_actors,
            cpus_per_actor=jobs.cpus_per_actor,
            use_gpu=self._config.use_gpu,
            limits=self._config.limits,
            tiling=self._config.tiling,
        )
