"""Every trial judged on the same pairs, admitted or not, and the best of those admitted."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.architecture import fill
from pipeline import checkpoints, storage
from pipeline.choosing.config import ChoiceConfig, guard
from pipeline.config import UserError
from pipeline.evaluation import Evaluation, EvaluationConfig, evaluate
from pipeline.evaluation.measures import METRICS
from pipeline.evaluation.scores import ALL, Score
from pipeline.registry import resolve
from pipeline.tuning import Trial, written_down

REPEATS = 5
Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial and everything that speaks for or against it."""

    trial: Trial
    evaluation: Evaluation
    parameters: int
    """Of the generator."""
    latency_ms: float
    """To fill one picture of the training's size, one thread: the median of five."""
    against: str = ""
    """Why it cannot be chosen; "" if it can."""

    def score(self, metric: str) -> Score:
        """Return its mean of a metric over all pairs, with its interval."""
        return self.evaluation.scores[self.evaluation.network][ALL][metric]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All candidates, best first, and the champion they were compared with."""

    metric: str
    candidates: tuple[Candidate, ...]
    champion: Evaluation | None = None

    @property
    def winner(self) -> Candidate:
        """The best candidate that nothing speaks against.

        Raises:
            UserError: if there is none; the message has the reason against the best.
        """
        for candidate in self.candidates:
            if not candidate.against:
                return candidate
        raise UserError(
            f"no trial can be chosen; against the best, {self.candidates[0].trial.name}, speaks: "
            f"{self.candidates[0].against}"
        )

    @property
    def frontier(self) -> list[Candidate]:
        """The candidates that none beats in score without being slower."""
        best, found = -float("inf"), []
        order = sorted(self.candidates, key=lambda c: (c.latency_ms, -self.goodness(c)))
        for candidate in order:
            if self.goodness(candidate) > best:
                best = self.goodness(candidate)
                found.append(candidate)
        return found

    def goodness(self, candidate: Candidate) -> float:
        """Return the deciding score, turned round where lower is better."""
        return sign_of(self.metric) * candidate.score(self.metric).mean


def sign_of(metric: str) -> int:
    """Return 1 for a metric of which more is better, -1 for others."""
    [found] = [one for one in METRICS if one.name == metric]
    return 1 if found.better == "higher" else -1


def choose(config: ChoiceConfig, log: Log = print) -> Choice:
    """Judge every finished trial of a search on the same pairs.

    Ray must be up, unless ``num_actors`` is 0. Evaluations that are finished are reused.

    Raises:
        UserError: if the search has no finished trial, or the champion is unknown.
    """
    trials = [trial for trial in written_down(config.search).values() if trial.scores]
    if not trials:
        raise UserError(f"{config.search} has no finished trial: run `python jobs/tune.py` first")
    out = config.out or storage.join(storage.absolute(config.search), "choice")
    pairs, champion, found = "", None, []
    if config.champion:
        place = resolve(config.registry, config.champion).location
        champion = _judged(config, place, storage.join(out, "champion"), pairs, log)
        pairs = champion.files["pairs"]
    for trial in trials:
        log(f"judging {trial.label or trial.name}")
        evaluation = _judged(config, trial.checkpoint, storage.join(out, trial.name), pairs, log)
        pairs = pairs or evaluation.files["pairs"]
        parameters, latency_ms = measured(trial.checkpoint)
        candidate = Candidate(
            trial=trial, evaluation=evaluation, parameters=parameters, latency_ms=latency_ms
        )
        found.append(admitted(candidate, config, champion))
    choice = Choice(metric=config.metric, candidates=tuple(found), champion=champion)
    order = sorted(found, key=choice.goodness, reverse=True)
    return Choice(metric=config.metric, candidates=tuple(order), champion=champion)


def _judged(config: ChoiceConfig, place: str, out: str, pairs: str, log: Log) -> Evaluation:
    common = EvaluationConfig(
        checkpoint=place,
        shards=config.shards,
        out=out,
        baselines=(),
        num_images=config.num_images,
        num_actors=config.num_actors,
    )
    if pairs:
        return evaluate(_with(common, pairs=pairs), lambda line: None)
    return evaluate(_with(common, masks=config.masks, buckets=config.buckets), lambda line: None)


def _with(config: EvaluationConfig, **changes: object) -> EvaluationConfig:
    return EvaluationConfig(**{**vars(config), **changes})


def measured(place: str) -> tuple[int, float]:
    """Return a generator's parameters, and the milliseconds it takes for one picture."""
    loaded = checkpoints.load_generator(place)
    side = loaded.image_size_px
    image, mask = torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side)
    mask[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(REPEATS + 1):
                start = time.perf_counter()
                fill(loaded.generator, image, mask, loaded.config.size_multiple)
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    parameters = sum(weight.numel() for weight in loaded.generator.parameters())
    return parameters, 1000 * statistics.median(times[1:])


def admitted(candidate: Candidate, config: ChoiceConfig, champion: Evaluation | None) -> Candidate:
    """Return the candidate with what speaks against it."""
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
