"""What an update reports: one ordered table of key, meaning and unit, from which logs and the README are made."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.logger import Logger

from sb3_trpo.algorithms.regressions import CriticFit
from sb3_trpo.core.natural_step import NaturalStep

BEGIN, END = "<!-- metrics -->", "<!-- end of metrics -->"


class UpdateReport(NamedTuple):
    """One update of actor and critic; ``entropy`` and ``std`` are None where the distribution has none.

    ``drift`` is None where no rollout is used again. ``measures`` are those of the extensions.
    """

    step: NaturalStep
    critic: CriticFit
    damping: float
    drift: float | None
    entropy: float | None
    std: float | None
    explained_variance: float
    n_updates: int
    rollout_seconds: float
    actor_seconds: float
    critic_seconds: float
    measures: Mapping[str, float]


class Metric(NamedTuple):
    """``value`` is None where the metric does not apply; sb3-contrib has those with ``contrib``, and a
    training only those with ``extension`` whose extension it uses.
    """

    key: str
    meaning: str
    unit: str
    value: Callable[[UpdateReport], Any]
    contrib: bool = False
    extension: bool = False
    exclude: tuple[str, ...] = ()


def _measure(name: str) -> Callable[[UpdateReport], float | None]:
    """One of an extension's, where there is such an extension and it has a number."""

    def value(report: UpdateReport) -> float | None:
        measure = report.measures.get(name, math.nan)
        return None if math.isnan(measure) else measure

    return value


METRICS = (
    Metric(
        "train/policy_objective",
        "surrogate objective at the policy as the update left it",
        "advantage",
        lambda r: r.step.objective,
        contrib=True,
    ),
    Metric(
        "train/value_loss",
        "mean squared error of the critic over its minibatches",
        "return²",
        lambda r: r.critic.value_loss,
        contrib=True,
    ),
    Metric(
        "train/kl_divergence_loss",
        "mean KL(old ‖ new) of the joint action; 0 for a refused step",
        "nats",
        lambda r: r.step.kl,
        contrib=True,
    ),
    Metric(
        "train/explained_variance",
        "1 − Var(returns − values) / Var(returns) of the rollout; 1 is a perfect critic",
        "1",
        lambda r: r.explained_variance,
        contrib=True,
    ),
    Metric(
        "train/is_line_search_success",
        "1 when the step was accepted, 0 when it was refused",
        "0 or 1",
        lambda r: float(r.step.accepted),
        contrib=True,
    ),
    Metric(
        "train/std",
        "mean `exp(log_std)`; for gSDE of the noise matrix",
        "action",
        lambda r: r.std,
        contrib=True,
    ),
    Metric(
        "train/n_updates",
        "updates made so far",
        "updates",
        lambda r: r.n_updates,
        contrib=True,
        exclude=("tensorboard",),
    ),
    Metric(
        "train/outcome",
        "why the step was refused, or `accepted`",
        "text",
        lambda r: r.step.status.value,
        exclude=("tensorboard",),
    ),
    Metric("train/radius", "trust-region radius δ of this update", "nats", lambda r: r.step.radius),
    Metric("train/damping", "damping λ of this update", "1", lambda r: r.damping),
    Metric(
        "train/quadratic_kl",
        "½ sᵀFs, the KL that the quadratic model foretold for the step taken",
        "nats",
        lambda r: r.step.quadratic_kl,
    ),
    Metric(
        "train/expected_improvement",
        "gᵀs, the improvement that the linear model foretold for the step taken",
        "advantage",
        lambda r: r.step.expected_improvement,
    ),
    Metric(
        "train/improvement", "actual improvement of the surrogate objective", "advantage", lambda r: r.step.improvement
    ),
    Metric(
        "train/reduction_ratio",
        "ρ, actual over expected improvement; near 1 the radius could grow, near 0 it is too large",
        "1",
        lambda r: r.step.reduction_ratio if r.step.accepted else None,
    ),
    Metric("train/backtracks", "candidates that the line search refused", "candidates", lambda r: r.step.backtracks),
    Metric(
        "train/cg_steps",
        "conjugate gradient steps, one Fisher-vector product each",
        "steps",
        lambda r: None if r.step.cg is None else r.step.cg.steps,
    ),
    Metric(
        "train/cg_residual",
        "relative residual ‖g − (F + λI)x‖ / ‖g‖ they reached",
        "1",
        lambda r: None if r.step.cg is None else r.step.cg.residual,
    ),
    Metric("train/gradient_norm", "‖g‖ of the surrogate objective", "advantage", lambda r: r.step.gradient_norm),
    Metric("train/entropy", "mean entropy of the old policy's joint action", "nats", lambda r: r.entropy),
    Metric(
        "train/tracking_cosine",
        'cosine between the tracked gradient and the batch\'s own (`"tracking"`, `"hessian_tracking"`)',
        "1",
        _measure("tracking_cosine"),
        extension=True,
    ),
    Metric(
        "train/signal_to_noise",
        '‖g‖² over the trace of its covariance (`radius="uncertainty"`)',
        "1",
        _measure("signal_to_noise"),
        extension=True,
    ),
    Metric(
        "train/held_out_improvement",
        "improvement of the surrogate objective on held-out steps, of the last candidate looked at",
        "advantage",
        _measure("held_out_improvement"),
        extension=True,
    ),
    Metric(
        "train/held_out_lower_bound",
        'its lower confidence bound (`radius="confidence"`)',
        "advantage",
        _measure("held_out_lower_bound"),
        extension=True,
    ),
    Metric(
        "train/held_out_kl",
        'mean KL(old ‖ candidate) on held-out steps (`validation="held_out"`)',
        "nats",
        _measure("held_out_kl"),
        extension=True,
    ),
    Metric(
        "train/reuse_drift",
        "estimated mean total variation between the policies whose rollouts are used and the present one (`reuse=4`)",
        "1",
        lambda r: r.drift,
        extension=True,
    ),
    Metric("time/rollout_seconds", "collecting the rollout before this update", "s", lambda r: r.rollout_seconds),
    Metric("time/actor_seconds", "the natural-gradient step", "s", lambda r: r.actor_seconds),
    Metric("time/critic_seconds", "the critic's regression", "s", lambda r: r.critic_seconds),
)


def record(logger: Logger, report: UpdateReport) -> None:
    """Write every metric that applies to ``logger``."""
    for metric in METRICS:
        value = metric.value(report)
        if value is not None:
            logger.record(metric.key, value, exclude=metric.exclude or None)


def markdown_table() -> str:
    """The table as the README shows it."""
    rows = ["| key | meaning | unit | sb3-contrib has it |", "|---|---|---|---|"]
    rows += [f"| `{m.key}` | {m.meaning} | {m.unit} | {'yes' if m.contrib else 'no'} |" for m in METRICS]
    return "\n".join(rows)


def write_table(readme: Path) -> None:
    """Replace what stands between the markers in ``readme`` by the table.

    :raises ValueError: when a marker is missing
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} has no place for the table of metrics: add the lines {BEGIN!r} and {END!r}")
    head, rest = text.split(BEGIN, 1)
    readme.write_text(f"{head}{BEGIN}\n{markdown_table()}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
