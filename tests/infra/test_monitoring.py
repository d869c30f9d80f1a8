"""Dashboards and rules ask for figures that the running program shows."""

import json
import subprocess
import sys
from pathlib import Path

import promql_parser
import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "infra" / "monitoring"
ON_GPUS_ONLY = {"ray_node_gpus_utilization", "ray_infill_train_gpu_memory_gib"}

PROGRAM = """
import contextlib, json, socket, sys, threading, time
import httpx, numpy as np, cv2, ray

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def names_of(url):
    lines = httpx.get(url, timeout=20).text.splitlines()
    return {l.partition("{")[0].partition(" ")[0] for l in lines if l and not l.startswith("#")}

metrics, photographs, out = free_port(), sys.argv[1], sys.argv[2]
ray.init(address="local", num_cpus=4, object_store_memory=150 * 2**20, include_dashboard=False,
         log_to_driver=False, logging_level="ERROR", _metrics_export_port=metrics,
         _system_config={"metrics_report_interval_ms": 500})
shown, served = set(), []

def look():  # All the while, as Prometheus does: what has ended is not shown for ever.
    while True:
        for url in (f"http://127.0.0.1:{metrics}", *served):
            with contextlib.suppress(httpx.HTTPError):
                shown.update(names_of(url + "/metrics"))
        time.sleep(1)

threading.Thread(target=look, daemon=True).start()
from infill.models.spn.config import SPNConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.inference.config import TilingConfig
from infill.pipeline.serving.replica.deployment import ServeConfig, start, stop
from infill.pipeline.sharding import ShardConfig, make_shards
from infill.pipeline.tracking import TrackingConfig
from infill.pipeline.training import TrainConfig, train

make_shards(ShardConfig(source=photographs, out=out + "/shards", crop_size_px=48, min_side_px=48,
                        photographs_per_shard=3, val_share=0.2, test_share=0.2), report=str)
masks = MaskConfig(max_hole_ratio=0.5)
data = BatchConfig(shards=out + "/shards", batch_size=2, image_size_px=32, masks=masks)
run = train(TrainConfig(model=SPNConfig.tiny(), data=data, steps=2, num_workers=0,
                        report_every_steps=1, validation_samples=4, storage=out + "/run",
                        tracking=TrackingConfig(tracking_uri="")), log=str)
url = start(ServeConfig(model=run.checkpoint, port=0, cpus_per_replica=0.5,
                        tiling=TilingConfig(sides_px=(32,), least_crop_px=32)))
hole = np.zeros((40, 40), np.uint8)
hole[10:20, 10:20] = 255
png = lambda pixels: cv2.imencode(".png", pixels)[1].tobytes()
files = {"image": png(np.full((40, 40, 3), 90, np.uint8)), "mask": png(hole)}
assert httpx.post(url + "/v1/inpaint", files=files, timeout=60).status_code == 200
assert httpx.post(url + "/v1/inpaint", files={"mask": files["mask"]}, timeout=60).status_code == 400
served.append(url)
wanted = set(json.loads(sys.argv[3]))
deadline = time.monotonic() + 120
while not wanted <= shown and time.monotonic() < deadline:
    time.sleep(1)
stop()
print(json.dumps(sorted(shown.copy())))
"""


def names_in(query: str) -> set[str]:
    """Return the metrics that a query asks for, after parsing it as Prometheus would."""
    found, open_ends = set(), [promql_parser.parse(query)]
    while open_ends:
        node = open_ends.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            if (child := getattr(node, name, None)) is not None:
                open_ends.append(child)
        open_ends += [one for one in getattr(node, "args", ()) or () if not isinstance(one, str)]
    assert found, query
    return found


def queries() -> list[str]:
    found = []
    for place in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(place.read_text())["panels"]:
            found += [target["expr"] for target in panel.get("targets", ())]
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        found += [rule["expr"] for rule in group["rules"]]
    return found


def test_queries_name_their_metrics():
    assert names_in("sum by (a) (rate(b_total{c='d'}[1m])) / on () clamp_min(e, 1) > 2") == {
        "b_total",
        "e",
    }


def test_dashboards_are_ones_that_grafana_takes():
    uids = set()
    for place in (MONITORING / "dashboards").glob("*.json"):
        whole = json.loads(place.read_text())
        uids.add(whole["uid"])
        panels = whole["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        corners = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
        assert len(corners) == len(panels)
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
        assert all(panel["description"] for panel in panels if panel["type"] != "text")
    assert uids == {"infill-training", "infill-endpoint", "infill-data"}


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    alerts = [rule for group in rules for rule in group["rules"]]
    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert len(alert["annotations"]["summary"]) > 30


def test_names_that_need_a_gpu_are_known_to_the_program():
    sources = Path(ray.__file__).parent.joinpath("dashboard").rglob("*.py")
    ours = (ROOT / "pipeline").rglob("*.py")
    text = "".join(place.read_text() for place in (*sources, *ours))
    assert '"node_gpus_utilization"' in text
    assert '"gpu_memory_gib"' in text


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1120)
def test_every_figure_asked_for_is_shown_by_the_running_program(photographs, tmp_path):
    wanted = set().union(*(names_in(query) for query in queries())) - ON_GPUS_ONLY
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, photographs, str(tmp_path), json.dumps(sorted(wanted))],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = set(json.loads(done.stdout.splitlines()[-1]))
    assert wanted <= shown, wanted - shown
    assert len(wanted) > 20
