"""What a run over a folder reports, with the stages of Ray Data in this process."""

from dataclasses import asdict

from infill.pipeline.batch_inference.config import BatchInferenceConfig
from infill.pipeline.batch_inference.ray_data import (
    InpaintActor,
    columns_of,
    finish,
    for_model,
    replica_config,
    row_of,
    split_rows,
)
from infill.pipeline.batch_inference.runner import Outcome, begin_folder, inpaint_folder
from infill.pipeline.inference.config import TilingConfig

TILING = TilingConfig(sides_px=(32, 64), least_crop_px=32)


def test_holes_predicted_at_reduced_size_are_counted_in_the_summary(make, spn, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, rows in (("small", slice(10, 20)), ("large", slice(10, 250))):
        (folder / f"{name}.png").write_bytes(make.file(make.photograph(256, 64)))
        hole = make.hole(256, 64, rows, slice(10, 20))
        (folder / f"{name}_mask.png").write_bytes(make.file(hole))
    config = BatchInferenceConfig(folder=str(folder), out=str(tmp_path / "out"), tiling=TILING)

    def run(config, pairs):
        actor = InpaintActor(spn, replica_config(config))
        split = split_rows(columns_of([asdict(pair) for pair in pairs]), config)
        done = finish(actor(split), config)
        for at in range(len(pairs)):
            row = row_of(done, at)
            assert not row["failure"] + row["refusal"]
            yield Outcome(name=row["name"], model=spn.label, scale=row["scale"])

    work = begin_folder(config, spn.label, say=lambda line: None)
    summary = inpaint_folder(config, work, run, say=lambda line: None)
    assert (summary.filled, summary.reduced, summary.smallest_scale) == (2, 1, 0.25)
    assert "1 predicted at reduced size (down to 0.25)" in str(summary)


def test_batch_inference_has_a_tile_of_the_models_training_size(spn):
    config = BatchInferenceConfig(folder="in", out="out", tiling=TilingConfig(sides_px=(32, 128)))
    assert for_model(config, spn).tiling.sides_px == (32, 64, 128)
