"""Proxies of the environment: this machine is reached without one.

Ray's processes, an endpoint on this machine and MLflow's server are spoken to over HTTP or gRPC,
whose clients send even that through ``http_proxy`` unless ``no_proxy`` says otherwise.
"""

import os
import socket

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def reach_this_machine_directly() -> None:
    """Add this machine's addresses to ``no_proxy``, if the environment names a proxy."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    for name in ("no_proxy", "NO_PROXY"):
        kept = [host for host in os.environ.get(name, "").split(",") if host]
        if "*" not in kept:
            added = [host for host in (*LOOPBACK, *_own_addresses()) if host not in kept]
            os.environ[name] = ",".join([*kept, *added])


def _own_addresses() -> list[str]:
    """Return this machine's address in its network, by which Ray's processes reach each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Nothing is sent: this only chooses the interface.
        except OSError:  # There is no network.
            return []
        return [probe.getsockname()[0]]
