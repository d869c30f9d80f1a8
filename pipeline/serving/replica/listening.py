"""How an ingress without a proxy takes its port, also right after the one before it was killed.

Ray Serve binds a plain socket once. While connections of a killed listener have not ended
(TIME_WAIT, up to a minute), that fails, and Serve then never gives the port out again. Here the
address may be reused, and a port that another program holds is waited for.
"""

import asyncio
import errno
import logging
import socket
from typing import Any

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.2
_WAITS_PER_REPORT = 50


def wait_for_ports() -> None:
    """Make Serve's direct ingress in this process take its port in this way. Repeating is harmless.

    Serve has no public setting for it: its own function that starts the server is wrapped.
    """
    from ray.serve._private import http_util, replica

    async def start(app: Any, options: Any, **settings: Any) -> Any:
        waited = 0
        while not can_bind(options.host, options.port):
            if waited % _WAITS_PER_REPORT == 0:
                _LOG.warning("waiting for port %d, which another program uses", options.port)
            waited += 1
            await asyncio.sleep(_WAIT_S)
        settings["enable_so_reuseport"] = True  # Calls reuse_address below.
        return await http_util.start_asgi_http_server(app, options, **settings)

    vars(http_util)["set_socket_reuse_port"] = reuse_address
    vars(replica)["start_asgi_http_server"] = start


def can_bind(host: str, port: int) -> bool:
    """Return whether nobody listens at an address; connections that are ending do not count.

    Raises:
        OSError: if the host is not an address of this machine or the port is not permitted.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        reuse_address(probe)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True


def reuse_address(listener: socket.socket) -> bool:
    """Let a socket be bound where connections of a former listener have not ended; return true.

    It does not share a port (``SO_REUSEPORT``): a second listener is refused.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True
