"""Load an endpoint with many callers, and print their results as JSON.

python one_load.py URL BODY_FILE CONTENT_TYPE CALLERS SECONDS

Callers keep their connections and ask again as soon as they are answered. The requests are bytes
made beforehand and the answers are not decoded, so that the load takes little from what it loads.
"""

import asyncio
import json
import sys
import time
from math import nan
from pathlib import Path
from urllib.parse import urlsplit


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request, read the answer to its end, and return its status."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1])


async def main(url: str, body: bytes, kind: str, callers: int, seconds: float) -> dict:
    place = urlsplit(url)
    head = (
        f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    times: list[tuple[float, float]] = []
    refused = 0

    async def caller() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        while time.perf_counter() < end:
            begin = time.perf_counter()
            if await ask(reader, writer, request) == 200:
                times.append((begin, time.perf_counter()))
            else:
                refused += 1
                await asyncio.sleep(0.01)
        writer.close()

    start = time.perf_counter()
    end = start + seconds
    await asyncio.gather(*(caller() for _ in range(callers)))
    warm = start + 0.2 * seconds
    kept = sorted(done - begin for begin, done in times if begin >= warm)
    rate = sum(warm <= done <= end for _, done in times) / (end - warm)
    return {
        "rate": rate,
        "median_ms": 1e3 * kept[len(kept) // 2] if kept else nan,
        "p99_ms": 1e3 * kept[int(0.99 * (len(kept) - 1))] if kept else nan,
        "answered": len(times),
        "refused": refused,
    }


if __name__ == "__main__":
    url, body, kind, callers, seconds = sys.argv[1:]
    found = main(url, Path(body).read_bytes(), kind, int(callers), float(seconds))
    print(json.dumps(asyncio.run(found)))
