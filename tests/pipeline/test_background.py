"""A function in a thread beside a block."""

import threading

import pytest

from infill.pipeline.background import beside


def test_work_ends_before_the_block_has_ended():
    done: list[str] = []

    def work(over: threading.Event) -> None:
        done.append(threading.current_thread().name)
        over.wait()
        done.append("ended")

    with pytest.raises(KeyError), beside(work, "a name"):
        raise KeyError
    assert done == ["a name", "ended"]


def test_an_error_of_the_work_does_not_end_the_block(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    begun = threading.Event()

    def work(over: threading.Event) -> None:
        begun.set()
        raise ValueError

    with beside(work, "failing"):
        assert begun.wait(60)
