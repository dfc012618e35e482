"""What reports and figures say about the numbers: units, digits and one sentence for each quantity."""

import numpy as np

from sb3_trpo.evaluation.statistics import Interval
from sb3_trpo.evaluation.summary import Aggregate, Summary

STATISTICS = dict(zip(Aggregate._fields, ("IQM", "mean", "optimality gap"), strict=True))
BETTER = dict(zip(Aggregate._fields, ("higher is better", "higher is better", "lower is better"), strict=True))
INTERVALS = "95% intervals by the bootstrap, runs drawn anew within each environment; too narrow for few seeds"
FINALS = (
    "Scores are the mean evaluation return at the end of each run. Mean ± sample standard deviation, and IQM "
    "(interquartile mean, the mean without the lowest and the highest quarter), are over seeds; steps and wall-clock "
    "(median) are of training."
)
AGGREGATES = (
    "IQM: mean of the middle half of all normalised scores. Mean: over environments of the mean over seeds. Optimality "
    "gap: how far scores fall short of 1 on average, lower is better, and 1 - mean where no score exceeds 1."
)
PROFILES = "Share of runs with a normalised score above τ; the higher the curve, the better."
ONE_SEED = "Where a contestant has one seed only there is no interval."


def curves(summary: Summary) -> str:
    """What lines and shades of learning curves are, and what to know about these."""
    text = "Mean over seeds of the evaluation return, shaded: its 95% bootstrap interval."
    finals = [final for group in summary.finals.values() for final in group.values()]
    if any(fewest < most for fewest, most in (final.steps for final in finals)):
        text += " Runs of different lengths: a line ends with the shortest."
    return f"{text} {ONE_SEED}" if one_seed(summary) else text


def improvement(summary: Summary) -> str:
    """What the probabilities of improvement are of."""
    return (
        f"How likely a run of {summary.contestants[0]} scores higher than a run of the other contestant in the same "
        "environment, ties counting half; mean over environments, 0.5 where neither is better."
    )


def normalization(summary: Summary) -> str:
    """What 0 and 1 are on the scale of normalised scores."""
    if summary.given:
        return "0 and 1 are the given reference scores"
    return "0 is the lowest first evaluation of any run, 1 the final score of the best run"


def compared(summary: Summary) -> str:
    """Which environments the aggregates are over."""
    if not summary.compared:
        return "No environment has scores of every contestant: there are no aggregates."
    left_out = [env for env in summary.environments if env not in summary.compared]
    missing = f"; without {', '.join(left_out)}, where a contestant has no scores" if left_out else ""
    return f"Over {', '.join(summary.compared)}{missing}."


def one_seed(summary: Summary) -> bool:
    """Whether a contestant has a single run in some environment, and so no interval."""
    return any(final.n_seeds == 1 for group in summary.finals.values() for final in group.values())


def number(value: float) -> str:
    """Three digits, or more where more stand before the point; a dash for NaN."""
    if np.isnan(value):
        return "–"
    size = abs(value)
    return f"{value:,.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def interval(value: Interval) -> str:
    """``0.53 [0.41, 0.62]``; the value alone where there is no interval."""
    ends = "" if np.isnan(value.low) else f" [{number(float(value.low))}, {number(float(value.high))}]"
    return number(float(value.value)) + ends


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds that the unit has, and its name: what makes ``seconds`` a number that is easy to read."""
    return (1.0, "s") if seconds < 120 else (60.0, "min") if seconds < 7200 else (3600.0, "h")


def duration(seconds: float, scale: float | None = None) -> str:
    """``42.0 s``, ``3.40 min``, ``12.0 h``; in the unit of ``scale`` seconds, if given, as the others of a column."""
    divisor, unit = time_unit(seconds if scale is None else scale)
    return f"{number(seconds / divisor)} {unit}"
