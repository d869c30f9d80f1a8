"""Conditions that a checkpoint must meet to become champion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from infill.pipeline.errors import UserError
from infill.pipeline.evaluation.result import Evaluation
from infill.pipeline.pretrained import shown_name


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One bound on one score of the network."""

    metric: str
    group: str
    """The range of hole ratio, as in ``0.1-0.2``; ``all`` for every pair."""
    bound: float
    kind: Literal["minimum", "maximum"]

    def __str__(self) -> str:
        """Return the gate in the form of its option."""
        group = "" if self.group == "all" else f":{self.group}"
        return f"{self.kind} {self.metric}{group}={self.bound:g}"


def parse_gate(text: str, kind: Literal["minimum", "maximum"]) -> Gate:
    """Read a gate such as ``hole_psnr=21.5`` or ``hole_psnr:0.4-0.5=18``.

    Raises:
        UserError: if the text does not have this form.
    """
    name, _, bound = text.partition("=")
    metric, _, group = name.partition(":")
    try:
        return Gate(metric=metric, group=group or "all", bound=float(bound), kind=kind)
    except ValueError as error:
        raise UserError(
            f"--{kind} {text!r} is not a gate: write metric=number or metric:group=number, "
            "such as hole_psnr=21.5 or hole_psnr:0.4-0.5=18"
        ) from error


def require(gates: Sequence[Gate], evaluation: Evaluation) -> None:
    """Raise unless every gate is passed.

    Raises:
        UserError: naming each gate that fails and the score found, or a missing score.
    """
    failures = []
    for gate in gates:
        value = _score(gate, evaluation)
        passed = value >= gate.bound if gate.kind == "minimum" else value <= gate.bound
        if not passed:
            failures.append(f"{gate} (found {value:.4g})")
    if failures:
        raise UserError(f"not promoted, as it fails: {', '.join(failures)}")


CLASSICAL = ("telea", "navier-stokes")
"""Baselines that a network must beat: they need no training and milliseconds per image."""


def require_better_than_baselines(evaluation: Evaluation) -> None:
    """Raise if a network loses to a classical method, as :func:`below_baseline` says.

    Raises:
        UserError: naming the baseline and both scores.
    """
    if reason := below_baseline(evaluation):
        raise UserError(
            f"not promoted: {reason}; train longer or start from better weights, or promote it "
            "anyway with --below-baselines"
        )


def below_baseline(evaluation: Evaluation) -> str:
    """Return which classical method a network loses to on the same pairs; "" if to none.

    It loses with a lower PSNR inside the holes, unless LPIPS was measured and is better: networks
    trained for sharp results trade PSNR for it.

    Returns:
        A sentence with the baseline and both scores.
    """
    ours = evaluation.scores[evaluation.network]["all"]
    for name in CLASSICAL:
        theirs = evaluation.scores.get(name, {}).get("all", {})
        if "hole_psnr" not in theirs or "hole_psnr" not in ours:
            continue
        looks_better = "lpips" in ours and ours["lpips"].mean < theirs["lpips"].mean
        if not ours["hole_psnr"].mean >= theirs["hole_psnr"].mean and not looks_better:
            return (
                f"{evaluation.network} inpaints holes at {ours['hole_psnr'].mean:.2f} dB, and "
                f"{name}, which needs no training, at {theirs['hole_psnr'].mean:.2f} dB "
                f"on the same pairs ({evaluation.out})"
            )
    return ""


def _score(gate: Gate, evaluation: Evaluation) -> float:
    groups = evaluation.scores[evaluation.network]
    if gate.group not in groups:
        raise UserError(f"{gate}: there is no group {gate.group!r}; there are {', '.join(groups)}")
    metrics = groups[gate.group]
    if gate.metric not in metrics:
        raise UserError(f"{gate}: {gate.metric!r} was not measured; there are {', '.join(metrics)}")
    return float(metrics[gate.metric].mean)


def require_about(evaluation: Evaluation, digest: str) -> None:
    """Raise unless the evaluation is of the checkpoint with this digest."""
    if evaluation.checkpoint["digest"] != digest:
        raise UserError(
            f"the scores at {evaluation.out} are of another checkpoint, "
            f"{shown_name(evaluation.checkpoint['location'])}; evaluate this one first"
        )
