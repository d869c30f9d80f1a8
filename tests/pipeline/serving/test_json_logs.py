"""The log of the service, on disk."""

import json
import signal
import subprocess
import sys

_KILLED = """import asyncio, os, signal, sys
from pathlib import Path
import httpx
from infill.pipeline.serving.http.app import create_app
from infill.pipeline.serving.http.inpaint_service import HttpConfig
from infill.pipeline.serving.http.json_logs import log_as_json

class Faulty:
    async def describe(self):
        raise ZeroDivisionError

async def main():
    log_as_json(Path(sys.argv[1]))
    transport = httpx.ASGITransport(create_app(Faulty(), HttpConfig()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/v1/models", headers={"x-request-id": "mine-3"})
        assert answer.status_code == 500, answer.text
        assert "see its log" in answer.text
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_defect_is_on_disk_when_its_process_is_killed_right_after(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [file] = tmp_path.glob("infill-*.jsonl")
    defect, request = map(json.loads, file.read_text().splitlines())
    assert (defect["message"], defect["level"], defect["request_id"]) == (
        "defect",
        "error",
        "mine-3",
    )
    assert "ZeroDivisionError" in defect["traceback"]
    assert (request["request_id"], request["status"], request["code"]) == (
        "mine-3",
        500,
        "internal",
    )
