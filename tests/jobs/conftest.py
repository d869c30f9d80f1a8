"""Run jobs by their command lines in this process, as in a process of their own."""

import importlib
import logging
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from infill.models.architecture import load
from infill.pipeline import checkpoints
from infill.pipeline.config import run, to_dict

NOBODY = "127.0.0.1:1"
"""An address where no Ray listens."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)


@contextmanager
def unchanged() -> Iterator[None]:
    """Restore the process's state: folder, environment, logging, warnings, threads."""
    folder, environment = Path.cwd(), dict(os.environ)
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    levels = {one: one.level for one in loggers if isinstance(one, logging.Logger)}
    threads, disabled = torch.get_num_threads(), logging.root.manager.disable
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        for logger, level in levels.items():
            logger.setLevel(level)
        logging.disable(disabled)
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@pytest.fixture
def run_job(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a job with its words, as ``python jobs/NAME.py WORDS`` would, on the Ray at hand.

    With ``ray=False`` there is none: a job that asks for one ends with the sentence that no Ray
    answers.
    """

    def job(
        name: str, *words: Any, cwd: str | Path | None = None, ray: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        module = importlib.import_module(f"infill.jobs.{name}")
        before = capfd.readouterr()
        with unchanged(), monkeypatch.context() as patch:
            for variable, value in {"COLUMNS": "120", **environment}.items():
                patch.setenv(variable, value)
            if cwd is not None:
                os.chdir(cwd)
            if not ray:
                patch.setenv("RAY_ADDRESS", NOBODY)
                patch.setattr("ray.is_initialized", lambda: False)
            with pytest.raises(SystemExit) as ended:
                run(module.main, [str(word) for word in words])
        said = capfd.readouterr()
        print(before.out + said.out, end="")
        return subprocess.CompletedProcess([name, *words], ended.value.code, said.out, said.err)

    return job


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a checkpoint of an architecture's tiny generator; tests do not write into it."""

    @cache
    def write(name: str = "spn", seed: int = 1, image_size_px: int = 32) -> str:
        torch.manual_seed(seed)
        architecture = load(name)
        model = architecture.config.tiny()
        data = {"image_size_px": image_size_px, "masks": {"recipe": "irregular"}}
        location = str(tmp_path_factory.mktemp(name) / f"step-{seed:09d}")
        networks = {"generator": architecture.generator(model).state_dict()}
        state = {"step": seed, "data_digest": "d" * 64}
        checkpoints.export(location, networks, {"model": to_dict(model), "data": data}, state)
        return location

    return write
