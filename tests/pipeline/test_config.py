import errno
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from infill.models.config import ModelConfig
from infill.models.spn.config import SPNConfig
from infill.pipeline import checkpoints
from infill.pipeline.config import (
    flatten,
    from_dict,
    from_json,
    override,
    parse,
    parse_one,
    run,
    to_dict,
    to_json,
)
from infill.pipeline.error_sentences import explain, sentence_of
from infill.pipeline.errors import UserError
from infill.pipeline.loading import BatchConfig
from infill.pipeline.masks import MaskConfig
from infill.pipeline.serving.config import ServeConfig
from infill.pipeline.training import TrainConfig
from infill.pipeline.training.run_dir import resumed


@dataclass(frozen=True, kw_only=True)
class Brush:
    """Strokes."""

    width_px: float = 12.0
    """Width of a stroke."""

    def __post_init__(self) -> None:
        if self.width_px <= 0:
            raise ValueError(f"width_px must be positive, not {self.width_px}")


@dataclass(frozen=True, kw_only=True)
class Painting:
    """A picture."""

    brush: Brush = field(default_factory=Brush)
    """The brush."""
    model: SPNConfig = field(default_factory=SPNConfig)
    """The model."""
    steps: int = 10
    """Number of steps
    of the brush."""
    levels: tuple[int, ...] = (1, 2)
    """Levels of detail."""
    name: str | None = None
    """Name of the picture."""
    weights: tuple[float, ...] = (1.0,)
    """Weights of the levels."""


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """A file."""

    name: str
    """Its name."""
    size_px: int
    """Its size."""


PRESETS = {"fine": Painting(), "coarse": Painting(brush=Brush(width_px=30.0))}


def test_a_preset_is_chosen_by_name_and_fields_by_dotted_name():
    config = parse(PRESETS, "Paint.", ["coarse", "--steps", "3", "--model.num-blocks", "4"])
    assert config.brush.width_px == 30.0
    assert config.steps == 3
    assert config.model.num_blocks == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["corse"], "'corse'; did you mean 'coarse'? The presets are: fine, coarse."),
        (["xyz"], "error: unknown preset 'xyz'. The presets are: fine, coarse."),
        ([], "name a preset first: fine, coarse"),
        (["fine", "--brush.widht-px", "3"], "--brush.widht-px"),
        (["fine", "--brush.width-px", "-3"], "width_px must be positive"),
        (["fine", "--steps", "many"], "steps"),
    ],
)
def test_what_cannot_be_is_refused_by_name_with_status_2(words, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(PRESETS, "Paint.", words)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert expected in output.err + output.out


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(PRESETS, "Paint a picture.", ["fine", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for words in ("--brush.width-px", "Width of a stroke.", "--model.num-blocks"):
        assert words in text
    assert "Number of steps of the brush." in text  # joined over lines of the source


def test_optimizers_and_schedules_are_flags_and_absent_from_old_files():
    words = ["fine", "--model.optimizer.name", "adamw", "--model.schedule.name", "cosine"]
    words += ["--model.schedule.warmup-steps", "500"]
    config = parse(PRESETS, "Paint.", [*words, "--model.discriminator-optimizer.name", "sgd"])
    assert config.model.optimizer_of("generator").name == "adamw"
    assert config.model.optimizer_of("discriminator").name == "sgd"
    assert config.model.schedule_of("discriminator").warmup_steps == 500
    assert from_dict(Painting, to_dict(config)) == config
    old = to_dict(PRESETS["fine"])
    for name in ("optimizer", "schedule", "discriminator_optimizer", "discriminator_schedule"):
        del old["model"][name]
    assert from_dict(Painting, old) == PRESETS["fine"]


def test_override_changes_a_copy_and_checks_it_again():
    config = Painting()
    changed = override(config, {"brush.width_px": 3, "levels": [4, 5]})
    assert changed.brush.width_px == 3.0
    assert isinstance(changed.brush.width_px, float)
    assert changed.levels == (4, 5)
    assert config.brush.width_px == 12.0
    with pytest.raises(ValueError, match="must be positive"):
        override(config, {"brush.width_px": -1})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("steps", "many", "steps must be a whole number, not 'many'"),
        ("steps", 2.5, "steps must be a whole number, not 2.5"),
        ("brush.width_px", None, "brush.width_px must be a number, not None"),
        ("brush.width_px", float("inf"), "brush.width_px must be a finite number, not inf"),
        ("brush.width_px", float("nan"), "brush.width_px must be a finite number, not nan"),
        ("levels", 3, "levels must be a list, not 3"),
        ("levels", [1, "2"], "levels must be a whole number, not '2'"),
        ("model.variant", "both", "model.variant must be one of ('deterministic',"),
        ("brush", {"width_px": 3}, "brush is a group of fields: name one, such as brush.width_px"),
    ],
)
def test_override_refuses_a_value_of_another_kind(name, value, sentence):
    with pytest.raises(UserError) as refused:
        override(Painting(), {name: value})
    assert str(refused.value).startswith(sentence)


def test_override_takes_numbers_lists_and_groups_as_they_are_meant():
    found = override(
        Painting(), {"steps": 4.0, "brush.width_px": 3, "levels": [4, 5], "name": None}
    )
    assert (found.steps, found.brush.width_px, found.levels) == (4, 3.0, (4, 5))
    assert [type(value) for value in (found.steps, found.brush.width_px)] == [int, float]
    assert override(found, {"brush": Brush(width_px=1.0)}).brush == Brush(width_px=1.0)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("field", ["--model.image-weight", "--weights"])
def test_numbers_of_the_command_line_are_finite(field, value, capsys):
    with pytest.raises(SystemExit) as left:
        parse(PRESETS, "Paints.", ["fine", field, value])
    assert left.value.code == 2
    assert f"error: {field} must be a finite number, not {value}" in capsys.readouterr().err


def test_override_refuses_an_unknown_name_and_suggests_a_known_one():
    with pytest.raises(UserError, match=r"no field 'brush.widthpx'; did you mean 'brush.width_px'"):
        override(Painting(), {"brush.widthpx": 3})


def test_json_brings_back_the_same_configuration():
    config = override(Painting(), {"model.num_blocks": 12, "name": "sea", "levels": (3,)})
    assert from_json(Painting, to_json(config)) == config


def test_json_with_an_unknown_field_or_damage_is_refused():
    with pytest.raises(UserError, match="unknown fields: colour"):
        from_json(Painting, '{"colour": 1}', "config.json")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        from_json(Painting, "{", "config.json")


MODEL = to_dict(SPNConfig())


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (
            ModelConfig,
            {**MODEL, "num_blocks": "8"},
            "f: model.num_blocks must be a whole number, not '8'",
        ),
        (
            ModelConfig,
            {**MODEL, "num_blocks": 8.5},
            "f: model.num_blocks must be a whole number, not 8.5",
        ),
        (ModelConfig, {**MODEL, "num_blocks": True}, "must be a whole number, not True"),
        (ModelConfig, {**MODEL, "learning_rate": None}, "f: model.learning_rate must be a number"),
        (ModelConfig, {**MODEL, "variant": "both"}, "f: model.variant must be one of ('determ"),
        (ModelConfig, {**MODEL, "optimizer": "adam"}, "f: model.optimizer must be an object with"),
        (ModelConfig, {**MODEL, "optimizer": {"name": 3}}, "f: model.optimizer.name must be text"),
        (ModelConfig, {**MODEL, "num_blocks": -1}, "f: model: "),
        (ModelConfig, {**MODEL, "architecture": "spm"}, "f: model.architecture: "),
        (ModelConfig, {**MODEL, "architecture": "../spn"}, "f: model.architecture: "),
        (ModelConfig, {}, "f: model has no architecture"),
        (ModelConfig, [], "f: model must be an object with fields, not []"),
        (NetworkFile, {"name": "a"}, "f: model lacks size_px"),
        (MaskConfig, {"mixture": {"box": 1}}, "f: model.mixture must be a list, not {'box': 1}"),
        (MaskConfig, {"mixture": [["box", "1"]]}, "f: model.mixture must be a number, not '1'"),
        (MaskConfig, {"recipe": ["box"]}, "f: model.recipe must be one of"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_the_field(kind, values, sentence):
    with pytest.raises(UserError) as refused:
        from_dict(kind, values, "f: model")
    assert str(refused.value).startswith("f: model")
    assert sentence in str(refused.value)


def test_numbers_of_numpy_and_whole_numbers_for_others_are_read():
    model = from_dict(ModelConfig, {**MODEL, "num_blocks": np.int64(4), "learning_rate": 1})
    assert (type(model.num_blocks), model.learning_rate) == (int, 1.0)


def test_flatten_names_every_value():
    values = flatten(Painting())
    assert values["brush.width_px"] == 12.0
    assert values["model.image_weight"] == 10.0


def test_a_users_mistake_ends_in_one_sentence(capsys):
    def fail():
        raise UserError("there is no folder photos; give one that exists")

    with pytest.raises(SystemExit) as stop:
        run(fail)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: there is no folder photos; give one that exists\n"


def test_a_line_of_a_job_can_be_read_before_it_ends():
    """Through a pipe, as into a log file; the job waits for an answer to its output."""
    program = (
        "from infill.pipeline.config import run; run(lambda: print(input(print('begun') or '')))"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert job.stdout.readline() == "begun\n"
    assert job.communicate("done\n", timeout=120)[0] == "done\n"
    assert job.returncode == 0


def test_our_own_defect_keeps_its_traceback():
    def fail():
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError):
        run(fail)


def test_a_task_hands_on_a_sentence_and_raises_a_defect():
    assert sentence_of(OSError(errno.ENOSPC, "No space left")).startswith("the disk is full; ")
    defect = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError) as caught:
        sentence_of(defect)
    assert caught.value is defect


def test_a_full_disk_is_explained():
    sentence = explain(OSError(errno.ENOSPC, "No space left on device", "shard-000001.tar"))
    assert sentence is not None
    assert "disk is full at shard-000001.tar" in sentence


def test_a_path_that_cannot_be_a_folder_or_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"):
        with pytest.raises((FileExistsError, NotADirectoryError)) as found:
            path.mkdir(parents=True, exist_ok=True)
        assert str(explain(found.value)).startswith(f"{path} cannot be a folder")
    sentence = explain(OSError(errno.EROFS, "Read-only file system", "runs/spn"))
    assert sentence == "runs/spn lies on a filesystem that is read-only; choose another path"


def test_a_store_that_does_not_answer_is_explained():
    said = "When reading 'b/k': AWS Error NETWORK_CONNECTION during GetObject: refused\nand more"
    sentence = explain(OSError(said))
    assert sentence is not None
    assert "AWS Error NETWORK_CONNECTION during GetObject: refused; check its address" in sentence
    assert "and more" not in sentence


def test_the_sentence_is_found_behind_what_ray_wraps_around_it(ray_local):
    import ray

    @ray.remote
    def fail():
        raise UserError("the shard is damaged; repair it")

    with pytest.raises(UserError) as caught:
        ray.get(fail.remote())
    assert explain(caught.value) == "the shard is damaged; repair it"
    outer = RuntimeError("worker group failed")
    outer.worker_failures = {0: caught.value}
    assert explain(outer) == "the shard is damaged; repair it"


def test_names_of_earlier_releases_are_read_in_files_and_refused_with_the_new_one(capsys):
    read = from_dict(BatchConfig, {"shards": "s", "window_shards": 3, "decoders": 4})
    assert (read.shuffle_window_shards, read.num_decode_workers) == (3, 4)
    training = TrainConfig(model=SPNConfig.tiny(), data=read)
    with pytest.raises(UserError, match="^'continue_from' is now 'resume_from'$"):
        override(training, {"continue_from": "somewhere"})
    with pytest.raises(UserError, match="^'data.decoders' is now 'data.num_decode_workers'$"):
        override(training, {"data.decoders": 3})
    with pytest.raises(SystemExit) as ended:
        parse({"one": training}, "A job.", ["one", "--data.window-shards=2"])
    assert ended.value.code == 2
    said = "error: --data.window-shards is now --data.shuffle-window-shards\n"
    assert capsys.readouterr().err == said
    served = from_dict(ServeConfig, {"canvas": {"sides_px": [64], "max_canvases": 3}})
    assert (served.tiling.sides_px, served.tiling.max_tiles) == ((64,), 3)
    for old, new in (("sides-px", "sides-px"), ("max-canvases", "max-tiles")):
        with pytest.raises(SystemExit):
            parse_one(ServeConfig, "A job.", [f"--canvas.{old}", "4"])
        assert capsys.readouterr().err == f"error: --canvas.{old} is now --tiling.{new}\n"


def test_run_of_an_earlier_release_is_resumed(tmp_path):
    """Its fields had other names, and fields that came later are missing."""
    training = TrainConfig(
        model=SPNConfig.tiny(), data=BatchConfig(shards="s", shuffle_window_shards=3)
    )
    values = to_dict(training)
    values["data"]["window_shards"] = values["data"].pop("shuffle_window_shards")
    values["data"]["decoders"] = values["data"].pop("num_decode_workers")
    del values["data"]["colour_jitter"]
    location = str(tmp_path / "step-000000001")
    checkpoints.export(location, {"generator": {}}, values, {"step": 1})
    assert resumed(training, location) == training
    with pytest.raises(UserError, match="another data.shuffle_window_shards"):
        resumed(override(training, {"data.shuffle_window_shards": 4}), location)
    lines = []
    assert (
        resumed(override(training, {"data.colour_jitter": 0.2}), location, lines.append) == training
    )
    assert lines == [
        "data.colour_jitter is newer than this run, which goes on with 0.0 in place of 0.2"
    ]


def test_a_message_is_kept_whole_behind_a_remote_traceback_and_without_terminal_codes():
    message = "the service answered\n404 to\x1b[31m /v1\x1b[0m\nask another"
    assert explain(UserError(message)) == "the service answered 404 to /v1 ask another"
    remote = "\x1b[36mray::task()\x1b[39m\nTraceback (most recent call last):\n  File\n"
    remote += f"infill.pipeline.errors.UserError: {message}"
    assert explain(UserError(remote)) == "the service answered 404 to /v1 ask another"
