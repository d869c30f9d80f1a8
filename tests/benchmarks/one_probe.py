"""Ask a path again and again, each time by a new connection; print the latencies as JSON.

python one_probe.py URL SECONDS

New connections reach every ingress of the port in turn, as the probes of Kubernetes do. They are
plain HTTP: httpx would load the certificates for HTTPS each time, which takes longer than the
answer.
"""

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

PAUSE_S = 0.02
LONGEST_S = 60.0


def ask(url: str) -> int:
    """Return the status of the answer to one request by a connection of its own."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=LONGEST_S)
    try:
        connection.request("GET", place.path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def probe(url: str, seconds: float) -> dict[str, float]:
    """Return the number of probes, median, 99th percentile and maximum in ms, and the failures."""
    times, failed = [], 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        try:
            failed += ask(url) != 200
        except (OSError, http.client.HTTPException):
            failed += 1
        times.append(1e3 * (time.perf_counter() - begin))
        time.sleep(PAUSE_S)
    times.sort()
    return {
        "probes": len(times),
        "median_ms": times[len(times) // 2],
        "p99_ms": times[int(0.99 * (len(times) - 1))],
        "max_ms": times[-1],
        "failed": failed,
    }


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], float(sys.argv[2]))))
