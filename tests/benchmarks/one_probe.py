"""Ask a path again and again, each time by a new connection; print the latencies as JSON.

python one_probe.py URL SECONDS

New connections reach every ingress of the port in turn, as the probes of Kubernetes do.
"""

import json
import sys
import time

import httpx

PAUSE_S = 0.02
LONGEST_S = 60.0


def probe(url: str, seconds: float) -> dict[str, float]:
    """Return the number of probes, median, 99th percentile and maximum in ms, and the failures."""
    times, failed = [], 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        try:
            failed += httpx.get(url, timeout=LONGEST_S).status_code != 200
        except httpx.TransportError:
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
