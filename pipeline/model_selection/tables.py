"""The ablation table of a paper after its search, beside the printed figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from infill.models.tables import Table
from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import PROTOCOLS, Evaluation, EvaluationConfig, evaluate
from infill.pipeline.evaluation.metric_networks import NOT_GIVEN
from infill.pipeline.evaluation.page import metric_heading
from infill.pipeline.evaluation.scores import ALL
from infill.pipeline.manifest import FILE_NAME, read_manifest
from infill.pipeline.metrics.image_metrics import mean_interval
from infill.pipeline.metrics.metric_registry import FURTHER, OF_NETWORKS, OF_SETS
from infill.pipeline.model_selection.config import TableConfig
from infill.pipeline.progress import Log, Progress
from infill.pipeline.tuning import TuneConfig, TuneResult

Evaluated = Mapping[str, Sequence[Evaluation]]
"""The evaluations of a row's trials, one per seed, by the row's label."""


def find_test_set(search: TuneConfig, config: TableConfig) -> str:
    """Return the location of a table's test set.

    Raises:
        UserError: if it does not exist.
    """
    shards_at = _test_set(search, config)
    if not storage.exists(storage.join(shards_at, FILE_NAME)):
        raise UserError(
            f"a paper's table is measured on test images, and {shards_at} is not a shard set; name "
            "one with --table.test-shards"
        )
    return storage.absolute(shards_at)


def _test_set(search: TuneConfig, config: TableConfig) -> str:
    return config.test_shards or storage.join(search.train.data.shards, "test")


def of_other_images(search: TuneConfig, config: TableConfig, table: Table) -> str:
    """Return the sentence on a test set of another size than the paper's.

    It is empty if they are equal, or if there is no test set yet.
    """
    shards_at = _test_set(search, config)
    if not storage.exists(storage.join(shards_at, FILE_NAME)):
        return ""
    return PROTOCOLS[table.protocol].of_other_images(len(read_manifest(shards_at)))


def evaluate_table(
    search: TuneConfig,
    table: Table,
    result: TuneResult,
    config: TableConfig,
    as_published: bool,
    log: Log = print,
) -> Evaluated:
    """Evaluate every row's trials on the same test pairs. Finished evaluations are reused.

    Args:
        search: the finished search.
        table: its space.
        result: the result of the search.
        config: settings of the evaluation.
        as_published: whether to use the paper's own protocol; otherwise the size and masks of the
            training, which suit small networks.
        log: prints one line.
    """
    test_set = find_test_set(search, config)
    evaluated: dict[str, list[Evaluation]] = {row.label: [] for row in table.rows}
    scored = [trial for trial in result.trials if trial.scores]
    with Progress("table", len(scored), "trials", log=log) as progress:
        for trial in scored:
            common = EvaluationConfig(
                checkpoint=trial.checkpoint,
                shards=test_set,
                out=storage.join(storage.absolute(search.storage), "table", trial.name),
                networks=config.networks,
                num_actors=config.num_actors,
                gpus_per_actor=config.gpus_per_actor,
                baselines=(),
            )
            setting = (
                replace(common, protocol=table.protocol)
                if as_published
                else replace(
                    common,
                    masks=replace(search.train.data.masks, curriculum_steps=0),
                    buckets=(),
                    metrics=_measurable(table, search.train.data.image_size_px),
                )
            )
            evaluated[trial.label].append(evaluate(setting, lambda line: None))
            progress.advance()
            progress.say(f"measured {trial.label}")
    return evaluated


def _figures(table: Table) -> list[str]:
    """Return the metrics of a table: those printed, or else the protocol's."""
    printed = list(dict.fromkeys(name for row in table.rows for name in row.published))
    return printed or list(PROTOCOLS[table.protocol].metrics)


def _measurable(table: Table, side: int) -> tuple[str, ...]:
    """Return the metrics of a table that are defined at a size and need no network."""
    metrics = (FURTHER[name] for name in _figures(table) if name in FURTHER)
    return tuple(metric.name for metric in metrics if metric.least_side_px <= side)


def paper_rows(table: Table, evaluated: Evaluated) -> tuple[list[str], list[list[str]]]:
    """Return header and rows in the paper's order, each metric measured here and as printed.

    The figure of one seed has half its 95 % interval over photographs after ±; that of several
    seeds is their mean, with its interval over seeds.
    """
    names = _figures(table)
    header = ["row"]
    for name in names:
        header += [f"{metric_heading(name)}, ours", "printed"]
    rows = []
    for row in table.rows:
        cells = [row.label]
        for name in names:
            cells += [_ours(evaluated.get(row.label, ()), name), row.published.get(name, "-")]
        rows.append(cells)
    return header, rows


def _ours(evaluations: Sequence[Evaluation], name: str) -> str:
    if not evaluations:
        return "failed"
    if name in OF_SETS:
        found = [one.set_scores[one.network][ALL] for one in evaluations if one.set_scores]
        values = [scores[name].value for scores in found if name in scores]
        return _mean(values, OF_NETWORKS[name].decimals, OF_NETWORKS[name].scale) or NOT_GIVEN
    scores = [one.scores[one.network][ALL] for one in evaluations]
    values = [found[name].mean for found in scores if name in found]
    if not values:
        return NOT_GIVEN if name in OF_NETWORKS else "not defined at this size"
    [metric] = [one for one in evaluations[0].metrics if one.name == name]
    score = scores[0][name]
    text = _mean(values, metric.decimals, metric.scale)
    if len(values) == 1 and score.low is not None and score.high is not None:
        text += f" ± {metric.shown((score.high - score.low) / 2)}"
    return text


def _mean(values: Sequence[float], decimals: int, scale: float) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0] * scale:.{decimals}f}"
    found = mean_interval([value * scale for value in values])
    ends = f"{found.low:.{decimals}f} to {found.high:.{decimals}f}"
    return f"{found.mean:.{decimals}f} ({ends}, {found.n} seeds)"
