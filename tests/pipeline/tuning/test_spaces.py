"""Search spaces and their trials, before any runs."""

import importlib
import json

import pytest

from infill.jobs.tune import presets_of, scale_of, training_of
from infill.models.architecture import load
from infill.pipeline.config import override
from infill.pipeline.errors import UserError
from infill.pipeline.tuning import Range, TuneConfig, num_trials, plan, read_space, read_table

SPACE = {"model.image_weight": [1.0, 10.0], "model.num_blocks": [1, 2]}


def test_every_combination_is_a_trial_with_its_own_run(config):
    planned = plan(config, SPACE)
    assert [trial.changes for trial, _ in planned] == [
        {"model.image_weight": weight, "model.num_blocks": blocks}
        for weight in (1.0, 10.0)
        for blocks in (1, 2)
    ]
    assert len({training.storage for _, training in planned}) == 4
    assert all(
        training.model.num_blocks == t.changes["model.num_blocks"] for t, training in planned
    )


def test_names_and_values_that_cannot_be_are_refused_before_anything_starts(config):
    with pytest.raises(UserError, match=r"did you mean 'model.image_weight'"):
        plan(config, {"model.image_wieght": [1.0]})
    with pytest.raises(ValueError, match="num_blocks must be at least 1"):
        plan(config, {"model.num_blocks": [0]})
    with pytest.raises(UserError, match="without values"):
        plan(config, {"model.num_blocks": []})
    tpe = override(config, {"num_trials": 3, "algorithm": "tpe"})
    with pytest.raises(UserError, match="did you mean"):
        plan(tpe, {"model.image_wieght": [1.0]})


def test_each_combination_is_trained_with_every_seed(config):
    planned = plan(override(config, {"seeds": 3, "train.seed": 5}), {"model.num_blocks": [1, 2]})
    assert [(t.changes["model.num_blocks"], training.seed) for t, training in planned] == [
        (blocks, seed) for blocks in (1, 2) for seed in (5, 6, 7)
    ]
    assert len({training.storage for _, training in planned}) == 6


def test_chance_chooses_the_same_again_and_stays_in_its_ranges(config):
    space = {
        "model.learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "model.num_blocks": Range(low=1, high=4, whole=True),
        "model.image_weight": [1.0, 10.0],
    }
    random = override(config, {"num_trials": 200, "algorithm": "random"})
    found = [trial.changes for trial, _ in plan(random, space)]
    assert found == [trial.changes for trial, _ in plan(random, space)]
    assert found != [t.changes for t, _ in plan(override(random, {"seed": 1}), space)]
    rates = [changes["model.learning_rate"] for changes in found]
    assert 1e-5 <= min(rates) < 2e-5
    assert 5e-4 < max(rates) <= 1e-3
    assert 70 < sum(rate < 1e-4 for rate in rates) < 130  # one of two orders of magnitude
    assert {changes["model.num_blocks"] for changes in found} == {1, 2, 3, 4}
    assert {changes["model.image_weight"] for changes in found} == {1.0, 10.0}


@pytest.mark.parametrize("algorithm", ["random", "asha"])
def test_chance_chooses_no_combination_twice_and_ends_with_the_space(config, algorithm):
    space = {
        "model.num_blocks": Range(low=1, high=3, whole=True),
        "model.image_weight": [1, 10, 10.0],
    }
    for asked, found in ((5, 5), (6, 6), (50, 6)):
        search = override(config, {"num_trials": asked, "algorithm": algorithm})
        planned = plan(search, space)
        assert len({trial.name for trial, _ in planned}) == len(planned) == found
        assert num_trials(search, space) == found
    fewer = override(config, {"num_trials": 3, "algorithm": algorithm})
    assert [t.name for t, _ in plan(fewer, space)] == [t.name for t, _ in planned[:3]]


def test_a_grid_with_a_value_twice_has_its_combinations_once(config):
    found = [trial.changes for trial, _ in plan(config, {"model.image_weight": [1, 10, 1.0]})]
    assert found == [{"model.image_weight": 1.0}, {"model.image_weight": 10.0}]


@pytest.mark.parametrize("text", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
def test_ranges_that_cannot_be_are_refused(text):
    with pytest.raises(UserError, match="low < high"):
        Range(**text)


def test_a_paper_s_table_is_tried_whole(config):
    random = override(config, {"num_trials": 3, "algorithm": "random"})
    with pytest.raises(UserError, match="is a grid: leave out algorithm 'random'"):
        plan(random, load("spn").tables["table4"])


def test_a_grid_of_a_range_and_a_count_for_chance_are_asked_for(config):
    with pytest.raises(UserError, match=r"a grid has no ranges, but model.image_weight"):
        plan(config, {"model.image_weight": Range(low=1, high=2)})
    for algorithm in ("random", "tpe", "asha"):
        with pytest.raises(ValueError, match="needs num_trials"):
            override(config, {"algorithm": algorithm})


FILES = {
    "space.json": json.dumps(SPACE),
    "space.yaml": "model.image_weight: [1.0, 10.0]\nmodel.num_blocks: [1, 2]\n",
    "space.py": "SPACE = {'model.image_weight': (1.0, 10.0), 'model.num_blocks': [1, 2]}\n",
}


@pytest.mark.parametrize(("name", "text"), FILES.items(), ids=FILES)
def test_a_space_comes_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_space(str(tmp_path / name), "spn") == SPACE


def test_a_file_may_name_ranges(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "model.learning_rate: {low: 1.0e-5, high: 0.001, log: true}"
    )
    found = read_space(str(tmp_path / "space.yaml"), "spn")
    assert found == {"model.learning_rate": Range(low=1e-5, high=1e-3, log=True)}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", "[1]", "must map dotted names"),
        ("a.json", "{", "cannot be read"),
        ("a.yaml", "model.image_weight: 3", "must be a list of values"),
        ("a.yaml", "model.image_weight: {low: a, high: 3}", r"image_weight\.low must be a number"),
        ("a.yaml", "a: [", "cannot be read"),
        ("a.py", "import os\nSPACE = {'a': os.listdir()}", "cannot be read"),
        ("a.py", "OTHER = {}", "assigns nothing to SPACE"),
    ],
)
def test_files_that_are_no_space_are_refused(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected):
        read_space(str(tmp_path / name), "spn")


def test_unknown_spaces_are_reported_with_those_there_are():
    with pytest.raises(UserError, match=r"lambdas, .*spn-table3, spn-table4"):
        read_space("nothing", "spn")
    with pytest.raises(UserError, match="there is no file"):
        read_space("nothing.json", "spn")


@pytest.mark.parametrize(
    ("scale", "name"), [(scale, name) for scale in ("paper", "smoke") for name in presets_of(scale)]
)
def test_every_paper_s_spaces_and_tables_are_possible_at_every_scale(name, scale):
    search: TuneConfig = presets_of(scale)[name]
    for space in load(name).spaces:
        values = read_space(space, name)
        planned = plan(override(search, {"space": space}), values)
        assert len(planned) >= 2
    for table, printed in load(name).tables.items():
        assert read_table(f"{name}-{table}", name) is printed
        planned = plan(override(search, {"space": table}), printed)
        assert [trial.label for trial, _ in planned] == [row.label for row in printed.rows]
        models = [training.model for _, training in planned]
        assert len(set(map(repr, models))) == len(models), "two rows are the same network"
        presets = importlib.import_module(f"infill.jobs.train_{name}").PRESETS
        assert training_of(name, "paper", table) is presets[printed.preset]


def test_the_paper_s_grids_are_those_of_the_sheets():
    spn = load("spn").spaces
    decades = (0.1, 1.0, 10.0)
    assert spn["lambdas"] == {"image_weight": decades, "adversarial_weight": decades}
    assert spn["lambdas-probabilistic"]["latent_weight"] == (0.01, 0.05, 0.1)
    assert spn["blocks"]["num_blocks"] == (4, 8, 12)
    printed = {row.label: row.published for row in load("madf").tables["table2"].rows}
    assert printed["MADF+K2+PN"] == {"psnr": "26.11", "ssim": "0.872", "fid": "4.45"}
    printed = {row.label: row.published for row in load("deepgin").tables["table1"].rows}
    assert printed["SPDResBlk-MSSA-BP"]["lpips"] == "0.132"


def test_a_space_s_variant_chooses_the_preset_that_has_it():
    presets = importlib.import_module("infill.jobs.train_spn").PRESETS
    assert training_of("spn", "paper") is presets["paris"]
    assert training_of("spn", "paper", "lambdas") is presets["paris"]
    chosen = training_of("spn", "paper", "lambdas-probabilistic")
    assert chosen is presets["probabilistic-paris"] or chosen is presets["probabilistic-celebahq"]
    assert chosen.model.variant == "probabilistic"


def test_scale_is_taken_out_of_the_command_line():
    assert scale_of(["spn", "--space", "a"]) == ("cpu", ["spn", "--space", "a"])
    assert scale_of(["spn", "--scale", "smoke", "--x"]) == ("smoke", ["spn", "--x"])
    assert scale_of(["--scale=paper", "spn"]) == ("paper", ["spn"])
    with pytest.raises(UserError, match="one of cpu, paper, smoke"):
        scale_of(["spn", "--scale", "huge"])
