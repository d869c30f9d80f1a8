"""Which ports an ingress may take: those whose listener is gone, whatever callers still hold."""

import socket

import pytest

from infill.pipeline.serving.replica.listening import can_bind, reuse_address, share_port


def listen(prepare=reuse_address) -> tuple[socket.socket, int]:
    listener = socket.socket()
    prepare(listener)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener, listener.getsockname()[1]


def test_port_whose_connections_are_ending_can_be_bound_and_one_that_is_served_cannot():
    listener, port = listen()
    with socket.create_connection(("127.0.0.1", port)) as caller:
        served, _ = listener.accept()
        assert not can_bind("127.0.0.1", port, share_port)
        served.close()  # The side that closes first waits for a minute after the end.
        assert caller.recv(1) == b""
    assert not can_bind("127.0.0.1", port, share_port)
    listener.close()
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))
    assert can_bind("127.0.0.1", port, share_port)


def test_port_that_is_shared_can_be_bound_again_but_not_by_a_program_that_does_not_share():
    listener, port = listen(share_port)
    assert can_bind("127.0.0.1", port, share_port)
    assert not can_bind("127.0.0.1", port, reuse_address)
    listener.close()


def test_address_of_another_machine_is_an_error():
    with pytest.raises(OSError, match="assign"):
        can_bind("192.0.2.77", 0, share_port)
