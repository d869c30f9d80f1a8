"""How ingresses without a proxy take their port, also right after one of them was killed.

Ray Serve gives each ingress a port of its own and binds a plain socket once. While connections of a
killed listener have not ended (TIME_WAIT, up to a minute), that fails, and Serve then never gives
the port out again. Here all ingresses of the node listen at the first port, among which the kernel
distributes new connections (``SO_REUSEPORT``): one that is killed gets none. The address may be
reused, and a port that another program holds is waited for.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from infill.pipeline.serving.config import MAX_INGRESSES

_LOG = logging.getLogger(__name__)
_STRAIGHT = "RAY_SERVE_THROUGHPUT_OPTIMIZED"
_FIRST_PORT = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"
_PORT_AFTER_LAST = "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
_WAIT_S = 0.2
_WAITS_PER_REPORT = 50


def port_environment(port: int) -> dict[str, str]:
    """Return the environment of a Ray whose ingresses listen at a port, all at the same."""
    # Serve counts its ingresses by ports. It uses none of the others, nor do we.
    last = str(port + MAX_INGRESSES)
    return {_STRAIGHT: "1", _FIRST_PORT: str(port), _PORT_AFTER_LAST: last}


def ingress_port() -> int:
    """Return the port of the ingresses in this process's environment, 0 if there is a proxy."""
    return int(os.environ.get(_FIRST_PORT, 0)) if os.environ.get(_STRAIGHT) == "1" else 0


def wait_for_ports() -> None:
    """Make Serve's direct ingress in this process take its port in this way. Repeating is harmless.

    Serve has no public setting for it: its own function that starts the server is wrapped.
    """
    from ray.serve._private import http_util, replica

    async def start(app: Any, options: Any, **settings: Any) -> Any:
        options = options.model_copy(update={"port": ingress_port() or options.port})
        waited = 0
        while not can_bind(options.host, options.port, share_port):
            if waited % _WAITS_PER_REPORT == 0:
                _LOG.warning("waiting for port %d, which another program uses", options.port)
            waited += 1
            await asyncio.sleep(_WAIT_S)
        settings["enable_so_reuseport"] = True  # Calls share_port below.
        return await http_util.start_asgi_http_server(app, options, **settings)

    vars(http_util)["set_socket_reuse_port"] = share_port
    vars(replica)["start_asgi_http_server"] = start


def can_bind(host: str, port: int, prepare: Callable[[socket.socket], object]) -> bool:
    """Return whether a socket can be bound to an address.

    Args:
        host: an address of this machine.
        port: a TCP port.
        prepare: sets the socket's options: :func:`reuse_address` or :func:`share_port`.

    Raises:
        OSError: if the host is not an address of this machine or the port is not permitted.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        prepare(probe)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


def reuse_address(listener: socket.socket) -> None:
    """Let a socket be bound where connections of a former listener have not ended.

    It does not share a port: a second listener is refused.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def share_port(listener: socket.socket) -> bool:
    """Let a socket be bound also where sockets listen that share their port; return true.

    Only processes of one user share a port.
    """
    reuse_address(listener)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return True
