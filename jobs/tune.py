"""Search around a training preset: one trial per combination, all through the training's code.

python jobs/tune.py spn --search lambdas --train.data.shards runs/demo/shards
python jobs/tune.py spn --search blocks --train.steps 2000
python jobs/tune.py spn --search my_space.json

A space maps dotted names to the values to try; a JSON file such as
{"model.image_weight": [1, 10], "model.num_blocks": [2, 4]} is one. Started again, a search keeps
the trials it has finished.
"""

from jobs import train_spn
from pipeline.cluster import connect
from pipeline.config import override, parse, run
from pipeline.report.search import write_search
from pipeline.training import resolve
from pipeline.tuning import Space, TuneConfig, plan, read_space, tune

SPACES: dict[str, Space] = {
    # SPN, Sec. 4.1: each weight is searched over three decades around its final value.
    "lambdas": {"model.image_weight": [1.0, 10.0], "model.adversarial_weight": [0.01, 0.1]},
    "lambdas-paper": {
        "model.image_weight": [0.1, 1.0, 10.0],
        "model.adversarial_weight": [0.1, 1.0, 10.0],
    },
    "blocks": {"model.num_blocks": [1, 2, 4]},
    "blocks-paper": {"model.num_blocks": [4, 8, 12]},  # Table 4
    "smoke": {"model.image_weight": [1.0, 10.0], "model.num_blocks": [1, 2]},
}
PRESETS = {
    "spn": TuneConfig(train=train_spn.PRESETS["demo"], storage="runs/sweep-spn"),
    "smoke": TuneConfig(
        train=override(train_spn.PRESETS["smoke"], {"steps": 2}),
        search="smoke",
        storage="runs/smoke/sweep",
    ),
}


def main() -> None:
    """Run the trials of one space and write them down, best first."""
    config = parse(PRESETS, __doc__)
    space = read_space(config.search, SPACES)
    plan(config, space)
    config = override(config, {"train": resolve(config.train)})
    with connect():
        result = tune(config, space)
    print(write_search(result, config.storage, f"Search {config.search!r}"))
    print(f"best: {result.best.checkpoint}\ntable, plot and page: {config.storage}")


if __name__ == "__main__":
    run(main)
