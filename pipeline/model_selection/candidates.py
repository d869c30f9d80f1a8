"""Evaluate every trial on the same pairs, apply the limits, and select the best."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from infill.pipeline import storage
from infill.pipeline.errors import UserError
from infill.pipeline.evaluation import Evaluation, EvaluationConfig, evaluate, prepare
from infill.pipeline.evaluation.gates import CLASSICAL
from infill.pipeline.evaluation.scores import ALL, Score
from infill.pipeline.metrics.image_metrics import mean_interval
from infill.pipeline.metrics.metric_registry import METRICS
from infill.pipeline.model_selection.config import SelectionConfig, guard
from infill.pipeline.progress import Log, Progress
from infill.pipeline.registry import everywhere, measure_latency, resolve
from infill.pipeline.training import SCORE
from infill.pipeline.tuning import Trial, written_down


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A combination of values: its scores, size, latency, and the reason against it, if any."""

    trial: Trial
    """The trial; of several seeds the best in validation, whose checkpoint may be promoted."""
    evaluation: Evaluation
    """Evaluation of that trial."""
    parameters: int
    """Number of generator parameters."""
    latency_ms: float
    """Milliseconds per image of the training size on one thread: the median of five."""
    others: tuple[Evaluation, ...] = ()
    """Evaluations of the same combination with other seeds."""
    against: str = ""
    """Why it cannot be selected; empty if it can."""

    def score(self, metric: str) -> Score:
        """Return its mean of a metric over all pairs, with its 95 % interval.

        With one seed the interval is over photographs; with several it is over seeds, whose means
        differ more.
        """
        everyone = [self.evaluation, *self.others]
        scores = [one.scores[one.network][ALL][metric] for one in everyone]
        if len(scores) == 1:
            return scores[0]
        over = mean_interval([score.mean for score in scores])
        return replace(scores[0], mean=over.mean, low=over.low, high=over.high)


@dataclass(frozen=True, kw_only=True)
class SelectionResult:
    """All candidates, best first, and the champion they were compared with."""

    metric: str
    candidates: tuple[Candidate, ...]
    champion: Evaluation | None = None

    @property
    def selected(self) -> Candidate:
        """The best candidate that passes all limits.

        Raises:
            UserError: if none passes; the message has the reason against the best.
        """
        for candidate in self.candidates:
            if not candidate.against:
                return candidate
        raise UserError(
            f"no trial can be selected; the best, {self.candidates[0].trial.name}, is excluded: "
            f"{self.candidates[0].against}"
        )

    @property
    def frontier(self) -> list[Candidate]:
        """The Pareto frontier: candidates that no faster candidate beats in score."""
        best, found = -float("inf"), []
        order = sorted(self.candidates, key=lambda c: (c.latency_ms, -self.goodness(c)))
        for candidate in order:
            if self.goodness(candidate) > best:
                best = self.goodness(candidate)
                found.append(candidate)
        return found

    def goodness(self, candidate: Candidate) -> float:
        """Return the score of the selection metric, negated if lower is better."""
        return sign_of(self.metric) * candidate.score(self.metric).mean


def sign_of(metric: str) -> int:
    """Return 1 for a metric of which higher is better, -1 for others."""
    [found] = [one for one in METRICS if one.name == metric]
    return 1 if found.better == "higher" else -1


def select_model(config: SelectionConfig, log: Log = print) -> SelectionResult:
    """Evaluate every finished trial of a search on the same pairs, and rank them.

    Ray must be connected, unless ``num_actors`` is 0. Finished evaluations are reused.

    Raises:
        UserError: if the search has no finished trial, or the champion is unknown.
    """
    require_metrics(config)
    trials = finished_trials(config.search)
    out = config.out or storage.join(storage.absolute(config.search), "choice")
    pairs, champion, found = "", None, []
    if config.champion:
        known = resolve(config.registry, config.champion)
        location = everywhere(known.address, known.digest, storage.join(out, "champion-checkpoint"))
        champion = _evaluated(config, location, storage.join(out, "champion"), pairs, log)
        pairs = champion.files["pairs"]
    with Progress("model selection", len(trials), "trials", log=log) as progress:
        for seeds in _by_combination(trials):
            evaluations = []
            for trial in seeds:
                location = storage.join(out, trial.name)
                evaluations.append(_evaluated(config, trial.checkpoint, location, pairs, log))
                pairs = pairs or evaluations[0].files["pairs"]
                progress.advance()
                progress.say(f"evaluated {trial.label or trial.name}")
            cost = measure_latency(seeds[0].checkpoint)
            candidate = Candidate(
                trial=seeds[0],
                evaluation=evaluations[0],
                others=tuple(evaluations[1:]),
                parameters=cost.parameters,
                latency_ms=cost.latency_ms,
            )
            found.append(admitted(candidate, config, champion))
    choice = SelectionResult(metric=config.metric, candidates=tuple(found), champion=champion)
    order = sorted(found, key=choice.goodness, reverse=True)
    return SelectionResult(metric=config.metric, candidates=tuple(order), champion=champion)


def require_inputs(config: SelectionConfig) -> None:
    """Refuse a search, champion or test set that cannot be evaluated; Ray is not needed yet.

    Raises:
        UserError: naming what is missing, or a metric that there is not.
    """
    require_metrics(config)
    trials = finished_trials(config.search)
    if config.champion:
        resolve(config.registry, config.champion)
    prepare(_settings(config, trials[0].checkpoint))


def require_metrics(config: SelectionConfig) -> None:
    """Refuse a metric or guard that no evaluation has.

    Raises:
        UserError: naming it.
    """
    known = {metric.name for metric in METRICS}
    if config.metric not in known:
        raise UserError(f"metric is one of {', '.join(sorted(known))}, not {config.metric!r}")
    for text in config.guards:
        if (name := guard(text)[0]) not in known:
            raise UserError(f"guard {text!r}: there is no metric {name!r}")


def finished_trials(search: str) -> list[Trial]:
    """Return the trials of a search that have scores.

    Raises:
        UserError: if there is none.
    """
    trials = [trial for trial in written_down(search).values() if trial.scores]
    if not trials:
        raise UserError(f"{search} has no finished trial: run `python jobs/tune.py` first")
    return trials


def evaluate_with_baselines(
    config: SelectionConfig, selected: Candidate, log: Log = print
) -> Evaluation:
    """Evaluate the selected candidate and the classical baselines on the pairs of the selection.

    Ray must be up, unless ``num_actors`` is 0. Promotion needs the baselines' scores.
    """
    scored = EvaluationConfig(
        checkpoint=selected.trial.checkpoint,
        shards=config.shards,
        out=f"{selected.evaluation.out}-baselines",
        pairs=selected.evaluation.files["pairs"],
        baselines=CLASSICAL,
        num_actors=config.num_actors,
    )
    return evaluate(scored, log)


def _by_combination(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group the trials that differ only in the seed, the best in validation first."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        identity = json.dumps([trial.label, trial.changes], sort_keys=True, default=str)
        found.setdefault(identity, []).append(trial)
    return [sorted(seeds, key=lambda trial: -trial.scores[SCORE]) for seeds in found.values()]


def _evaluated(
    config: SelectionConfig, location: str, out: str, pairs: str, log: Log
) -> Evaluation:
    return evaluate(_settings(config, location, out, pairs), lambda line: None)


def _settings(
    config: SelectionConfig, location: str, out: str = "", pairs: str = ""
) -> EvaluationConfig:
    """Return the evaluation of a checkpoint, on given pairs or on pairs of its own."""
    common = EvaluationConfig(
        checkpoint=location,
        shards=config.shards,
        out=out,
        baselines=(),
        num_actors=config.num_actors,
    )
    if pairs:
        return replace(common, pairs=pairs)
    return replace(common, masks=config.masks, buckets=config.buckets, num_images=config.num_images)


def admitted(
    candidate: Candidate, config: SelectionConfig, champion: Evaluation | None
) -> Candidate:
    """Return the candidate with the reasons against it."""
    reasons = []
    if config.max_parameters and candidate.parameters > config.max_parameters:
        reasons.append(f"{candidate.parameters:,} parameters, over {config.max_parameters:,}")
    if config.max_latency_ms and candidate.latency_ms > config.max_latency_ms:
        reasons.append(f"{candidate.latency_ms:.1f} ms, over {config.max_latency_ms:g}")
    for text in config.guards if champion is not None else ():
        assert champion is not None
        name, allowed = guard(text)
        theirs = champion.scores[champion.network][ALL][name].mean
        loss = sign_of(name) * (theirs - candidate.score(name).mean)
        if loss > allowed:
            reasons.append(f"{name} worse than the champion's by {loss:.4g}, over {allowed:g}")
    return Candidate(**{**vars(candidate), "against": "; ".join(reasons)})
