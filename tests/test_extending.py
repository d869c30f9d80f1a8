"""docs/extending.md names files that exist, lines in them, and few of them."""

import asyncio
import importlib
import json
import platform
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi import FastAPI

from infill.models.architecture import Batch
from infill.models.losses import weighted_l1
from infill.models.optimizers import OptimizerConfig
from infill.models.schedules import ScheduleConfig
from infill.models.spn.config import SPNConfig
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.metrics.metric_registry import Metric
from infill.pipeline.serving.errors import RequestError
from infill.pipeline.serving.http import schemas
from infill.pipeline.sources import KINDS, named, open_source
from infill.pipeline.sources.bundled import BundledSource
from infill.pipeline.tracking import Record, RunInfo, TrackingConfig
from infill.pipeline.training import TrainConfig
from infill.pipeline.tuning import TuneConfig
from infill.pipeline.tuning.algorithms import ALGORITHMS, Algorithm

ROOT = Path(__file__).parent.parent
MOST_FILES = 3
TASKS = (
    "A loss term",
    "A mask recipe",
    "A source",
    "A metric",
    "A route",
    "A request field",
    "A Tune algorithm",
    "An optimizer",
    "A schedule",
    "A checkpoint field",
    "A logger",
    "A GPU augmentation",
    "A CPU augmentation",
    "A manifest field",
    "A baseline",
    "An architecture",
    "FSDP",
    "Weights & Biases",
    "A dataset",
    "A report section",
)
ENTRY = re.compile(r"^- `([^`]+)`(?:, `([^`]+)`| (\*\(new\)\*)):", re.MULTILINE)


def sections() -> dict[str, str]:
    """Return the text of each task."""
    _, *parts = re.split(r"^## ", (ROOT / "docs/extending.md").read_text(), flags=re.MULTILINE)
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_every_task_has_a_section():
    assert tuple(sections()) == TASKS


@pytest.mark.parametrize("task", TASKS)
def test_files_of_a_task_exist_hold_what_is_named_and_are_few(task):
    text = sections()[task]
    entries = ENTRY.findall(text)
    assert len(entries) == text.count("\n- ") > 0
    assert len(entries) <= MOST_FILES or task == "FSDP"
    for path, symbol, new in entries:
        if new:
            assert any(folder.is_dir() for folder in (ROOT / path).parents[:2]), path
        else:
            assert symbol in (ROOT / path).read_text(), f"{path} has no {symbol}"


def code_of(task: str) -> str:
    [code] = re.findall(r"```python\n(.*?)```", sections()[task], flags=re.DOTALL)
    return code


def sketch(task: str, module: str, **names: object) -> dict[str, Any]:
    """Run the code of a task among the names of the module that it is written for."""
    code = code_of(task)
    namespace = {**vars(importlib.import_module(module)), **names}
    exec(compile(code, f"docs/extending.md: {task}", "exec"), namespace)
    return namespace


def test_sketches_that_are_parts_of_something_fit_there():
    def edges(image):
        return (image - image.roll(1, -1)).abs()

    config, mask = SimpleNamespace(edge_weight=2.0), torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    image = torch.rand(1, 3, 4, 4)
    names = {"self": SimpleNamespace(config=config), "weighted_l1": weighted_l1, "edges": edges}
    batch, prediction = SimpleNamespace(image=image, mask=mask), SimpleNamespace(final=image + 1)
    found = eval(
        f"{{{code_of('A loss term')}}}", {**names, "batch": batch, "prediction": prediction}
    )
    assert list(found) == ["edges"]
    assert found["edges"].shape == ()

    def largest_error(ours, theirs):
        return (ours.double() - theirs.double()).abs().amax(dim=(1, 2, 3))

    metric = eval(code_of("A metric"), {"Metric": Metric, "largest_error": largest_error})
    pixels = torch.tensor([[[[0, 0, 9]]], [[[5, 0, 0]]]], dtype=torch.uint8)
    assert metric.of_each(pixels, torch.zeros_like(pixels), mask).tolist() == [9, 5]

    app, limits = FastAPI(), SimpleNamespace(max_body_bytes=7)
    service = SimpleNamespace(config=SimpleNamespace(limits=limits))
    sketch("A route", "infill.pipeline.serving.http.app", app=app, service=service)
    [route] = [route for route in app.routes if getattr(route, "path", "") == "/v1/limits"]
    assert asyncio.run(route.endpoint()) == {"max_body_bytes": 7}

    wider: dict[str, Any] = {"__name__": "wider", **vars(schemas)}
    exec(f"class Wider(RequestFields):\n    {code_of('A request field')}", wider)
    assert schemas.check(wider["Wider"], {"feather_px": "8"}).feather_px == 8
    with pytest.raises(RequestError, match="feather_px"):
        schemas.check(wider["Wider"], {"feather_px": "33"})

    names = {"data_digest": "0", "host_name": platform.node(), "self": SimpleNamespace()}
    sketch("A checkpoint field", "infill.pipeline.training.async_checkpoint", **names)
    assert json.dumps(names["self"].lasting)


STEPS = """
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard

from infill.models.architecture import Batch
from infill.models.spn.config import SPNConfig
from infill.pipeline.loading import BatchConfig
from infill.pipeline.training import TrainConfig, WorkerContext, build_objective


class Sharding(WorkerContext):
    fsdp = True

    def prepare(self, network):
{sketch}


rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
store = torch.distributed.FileStore(str(folder / "store"), 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
data = BatchConfig(batch_size=4, image_size_px=32)
config = TrainConfig(model=SPNConfig.tiny(), data=data, num_workers=2)
found = []
for kind in (WorkerContext, Sharding):
    objective = build_objective(config, kind(rank=rank, world_size=2, channels_last=False))
    for step in range(2):
        random = torch.Generator().manual_seed(2 * step + rank)
        image = torch.rand(2, 3, 32, 32, generator=random) * 2 - 1
        mask = (torch.rand(2, 1, 32, 32, generator=random) < 0.3).float()
        objective.step_with_accumulation(Batch(image=image, mask=mask, step=step, seed=step))
    tensors = [t for n in objective.networks.values() for t in n.state_dict().values()]
    assert any(hasattr(t, "full_tensor") for t in tensors) == (kind is Sharding)
    found.append([t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors])
together, sharded = found
differences = [(a - b).abs().max().item() for a, b in zip(together, sharded, strict=True)]
(folder / str(rank)).write_text(str(max(differences)))
torch.distributed.destroy_process_group()
"""


def test_two_workers_take_the_steps_of_ddp_with_the_sketch_of_fsdp(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", sections()["FSDP"], flags=re.DOTALL)
    program = STEPS.replace("{sketch}", textwrap.indent(code, " " * 8))
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(rank), str(tmp_path)], cwd=ROOT)
        for rank in (0, 1)
    ]
    assert [process.wait(300) for process in processes] == [0, 0]
    assert max(float((tmp_path / str(rank)).read_text()) for rank in (0, 1)) < 1e-9


def test_sketches_of_functions_do_what_they_say(tmp_path, monkeypatch):
    network = torch.nn.Linear(2, 1)
    nadam = sketch("An optimizer", "infill.models.optimizers")["nadam"]
    optimizer = nadam(
        OptimizerConfig(implementation="loop"), list(network.parameters()), 0.1, (0.9, 0.999)
    )
    assert type(optimizer) is torch.optim.NAdam

    linear = sketch("A schedule", "infill.models.schedules")["linear"]
    schedule = ScheduleConfig(final_factor=0.5)
    assert [linear(schedule, step, 4) for step in (0, 2, 4, 6)] == [1, 0.75, 0.5, 0.5]

    cross = sketch("A mask recipe", "infill.pipeline.masks.generators")["generate_cross"]
    hole = cross(MaskConfig(), np.random.default_rng(0), 5, 7)
    assert hole.shape == (5, 7)
    assert hole.sum() == 5 + 7 - 1

    mirror = sketch("A baseline", "infill.pipeline.baselines")["mirror"]
    image = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)
    hole = np.array([[1, 0, 0, 0]], np.uint8)
    assert mirror(image, hole)[0, 0].tolist() == image[0, 3].tolist()
    assert mirror(image, hole)[0, 1:].tolist() == image[0, 1:].tolist()

    augment = sketch("A GPU augmentation", "infill.models.architecture")["augment"]
    batch = Batch(image=torch.zeros(2, 3, 8, 8), mask=torch.zeros(2, 1, 8, 8), seed=3)
    levels = augment(batch, 0.25).image[:, 0, 0, 0]
    assert 0 < levels.abs().max() <= 0.5
    assert levels[0] != levels[1]
    assert torch.equal(augment(batch, 0.25).image, levels.view(2, 1, 1, 1).expand(2, 3, 8, 8))

    settings = SimpleNamespace(blur_px=9, seed=0)
    about = {"config": settings, "key": "a", "pixels": image.repeat(9, axis=0)}
    transform = "infill.pipeline.loading.dataset"
    blurred = sketch("A CPU augmentation", transform, **about, epoch=1, labels=False)["pixels"]
    assert blurred.shape == (9, 4, 3)
    assert (blurred != about["pixels"]).any()
    kept = sketch("A CPU augmentation", transform, **about, epoch=1, labels=True)["pixels"]
    assert kept is about["pixels"]

    [code] = re.findall(r"```python\n(.*?)```", sections()["A dataset"], flags=re.DOTALL)
    [(name, added)] = eval(f"{{{code}}}", vars(named)).items()
    assert name not in named.NAMED
    assert [(part.counts, part.split) for part in added.parts] == [
        ((800,), "train"),
        ((100,), "test"),
    ]

    scores = [("ours", "a", 9.0), ("ours", "b", 7.5), ("telea", "c", 1.0)]
    rows = [{"method": m, "key": k, "hole_psnr": v} for m, k, v in scores]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    evaluation = SimpleNamespace(network="ours", files={"rows": str(tmp_path / "rows.parquet")})
    worst = sketch("A report section", "infill.pipeline.evaluation.page")["worst_pairs"]
    assert re.findall(r">(\w|[\d.]+)</t[dh]>", worst(evaluation)) == ["b", "7.50", "a", "9.00"]

    median = sketch("A Tune algorithm", "infill.pipeline.tuning.asha")["median"]
    monkeypatch.setitem(ALGORITHMS, "median", Algorithm(scheduler=median))
    training = TrainConfig(model=SPNConfig.tiny(), data=BatchConfig())
    search = TuneConfig(train=training, algorithm="median", num_trials=2)
    assert type(search.method.scheduler(800, ())).__name__ == "MedianStoppingRule"
    with pytest.raises(ValueError, match="there is no algorithm 'mean'; there are: grid, .*median"):
        TuneConfig(train=training, algorithm="mean", num_trials=2)

    listing = BundledSource()
    monkeypatch.setitem(KINDS, "listing", None)
    sketch("A source", "infill.pipeline.sources", BucketListing=lambda location: listing)
    assert open_source("listing", "names.txt") is listing
    with pytest.raises(UserError, match="give the folder of photographs with --source DIR"):
        open_source("listing", "")

    records = "infill.pipeline.tracking.json_lines"
    names = {"Path": Path, "contextmanager": contextmanager}
    csv_file = sketch("A logger", records, **names)["csv_file"]
    info = RunInfo(
        config=TrackingConfig(), run=str(tmp_path / "run"), name="x", architecture="spn", steps=1
    )
    with csv_file(info, print) as report:
        report(Record(kind="losses", step=3, values={"hole": 0.5}))
    assert (tmp_path / "run/numbers.csv").read_text() == "3,hole,0.5\n"
