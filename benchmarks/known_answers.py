"""Extensions on problems whose answers are known: do they do what they claim, before any robot is asked?

Run: ``python -m benchmarks.known_answers`` (ten minutes; tables and figure in benchmarks/known_answers). On a
linear-quadratic regulator and on a small tabular process (`benchmarks.exact`) the true return, gradient and advantages
are computed, not estimated, so that

- the error of a *tracked gradient* splits into bias and variance, along a training of fifty updates;
- a step is *harmful* or not, by the true return before and after it: how often is one accepted, by the plain algorithm,
  by the confidence radius, by the held-out guard and in the region of uncertainty?
- it is known how many *episodes* training needs to come most of the way to the best return, with samples used once and
  with samples used again.

Advantages are Monte-Carlo returns minus the exact value: unbiased, and as noisy as a training's.
"""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import torch as th
import typer
from torch import Tensor

from benchmarks.exact import Episodes, ExactProblem, LinearQuadratic, Tabular, batches_of
from sb3_trpo.core.activations import Array
from sb3_trpo.core.advantages import generalized_advantages
from sb3_trpo.core.natural_step import NaturalStep, natural_step
from sb3_trpo.core.parameters import assign, flatten
from sb3_trpo.core.problem import Sample, TrustRegionProblem, constrained_problem
from sb3_trpo.core.surrogate import normalized_weights
from sb3_trpo.extensions.confidence import ConfidenceRadius
from sb3_trpo.extensions.extension import Extension, Plain
from sb3_trpo.extensions.gradient_tracking import GradientTracking
from sb3_trpo.extensions.held_out import HeldOutValidation
from sb3_trpo.extensions.hessian_tracking import HessianAidedTracking
from sb3_trpo.extensions.sample_reuse import AdaptiveBound, FixedBound, ReuseBound, total_variation
from sb3_trpo.extensions.uncertainty import UncertaintyRegion

FOLDER = Path(__file__).parent / "known_answers"
PROBLEMS: dict[str, Callable[[], ExactProblem]] = {
    "regulator": lambda: LinearQuadratic.random(seed=0),
    "tabular": lambda: Tabular.random(seed=0),
}
RADIUS, UPDATES = 0.002, 50
LEARNING_RADIUS = 0.1
"""delta of a training whose samples are used once: the larger the faster it learns of 0.008, 0.03 and this; by 0.3 not
every one comes near the optimum."""
LEVEL = 0.05
"""alpha of the confidence radius."""
SETTINGS = {"damping": 1e-3, "cg_max_steps": 30, "cg_tolerance": 1e-8, "shrinking_factor": 0.8, "max_candidates": 10}


def noisy(problem: ExactProblem, n_episodes: int, generator: th.Generator) -> Episodes:
    """Episodes with the advantages of a training."""
    return problem.sample(n_episodes, generator).with_monte_carlo_advantages()


def update(
    problem: ExactProblem, learned: Episodes, extension: Extension, radius: float, held_out: Episodes | None = None
) -> NaturalStep:
    """One step, by an extension's leave."""
    posed, sample = pose(problem, learned, held_out)
    return natural_step(extension.repose(posed, sample), radius=radius, **SETTINGS)  # type: ignore[arg-type]


def pose(problem: ExactProblem, learned: Episodes, held_out: Episodes | None) -> tuple[TrustRegionProblem, Sample]:
    """The problem of an update on ``learned``, pieces of which are whole episodes."""
    batches = batches_of(learned)
    n_episodes = int(learned.clusters[-1]) + 1

    def pieces(count: int) -> Any:
        groups = np.array_split(np.arange(n_episodes), min(count, n_episodes))
        rows = (th.isin(learned.clusters, th.as_tensor(group)) for group in groups)
        return [batches_of(Episodes(*(column[some] for column in learned)))[0] for some in rows]

    sample = Sample(problem, batches, [] if held_out is None else batches_of(held_out), pieces)
    return constrained_problem(problem, batches), sample


def trajectory(make: Callable[[], ExactProblem]) -> tuple[ExactProblem, list[Tensor]]:
    """A problem, and the parameters before each of `UPDATES` updates of a training on very many episodes."""
    problem, generator = make(), th.Generator().manual_seed(1)
    visited = []
    for _ in range(UPDATES):
        visited.append(flatten(problem.parameters))
        update(problem, noisy(problem, 200, generator), Plain(), RADIUS)
    return problem, visited


class Momentum(Plain):
    """An average of gradients that is not brought to the present policy: what tracking is without its correction."""

    def __init__(self, weight: float):
        self.weight = weight
        self.average: Tensor | None = None

    def repose(self, problem: TrustRegionProblem, sample: Sample) -> TrustRegionProblem:
        """The same problem with the average as its gradient."""
        average, fresh = self.average, problem.gradient
        self.average = fresh if average is None else self.weight * fresh + (1.0 - self.weight) * average
        return problem._replace(gradient=self.average)


ESTIMATORS: dict[str, Callable[[], Extension]] = {
    "batch": lambda: GradientTracking(weight=1.0),
    "tracked, weight 0.5": lambda: GradientTracking(weight=0.5),
    "by the Hessian, weight 0.5": lambda: HessianAidedTracking(weight=0.5),
    "averaged, weight 0.5": lambda: Momentum(0.5),
    "tracked, weight 0.3": lambda: GradientTracking(weight=0.3),
    "by the Hessian, weight 0.3": lambda: HessianAidedTracking(weight=0.3),
    "averaged, weight 0.3": lambda: Momentum(0.3),
}


class TrackingError(NamedTuple):
    """Of an estimate of the gradient at one update, over repetitions; ``bias`` and ``variance`` relative to |g|^2.

    ``bias`` is the squared length of the mean's error, less what the number of repetitions adds to it.
    """

    problem: str
    estimator: str
    update: int
    bias: float
    variance: float
    cosine: float


def tracking(name: str, estimators: Iterable[str], episodes: int = 10, repetitions: int = 100) -> list[TrackingError]:
    """Errors of some `ESTIMATORS` on batches of so many episodes, update by update."""
    problem, visited = trajectory(PROBLEMS[name])
    generator = th.Generator().manual_seed(7)
    trackers = {estimator: [ESTIMATORS[estimator]() for _ in range(repetitions)] for estimator in estimators}
    errors = []
    for number, parameters in enumerate(visited):
        assign(problem.parameters, parameters)
        truth = problem.exact_gradient() / problem.effective_horizon
        posed = [
            pose(problem, piece, None) for piece in noisy(problem, episodes * repetitions, generator).split(episodes)
        ]
        for estimator, some in trackers.items():
            found = th.stack([tracker.repose(*one).gradient for tracker, one in zip(some, posed, strict=True)])
            size, variance = float(truth.square().sum()), float(found.var(0).sum())
            bias = float((found.mean(0) - truth).square().sum()) - variance / repetitions
            cosine = float(th.cosine_similarity(found, truth[None]).mean())
            errors.append(TrackingError(name, estimator, number, bias / size, variance / size, cosine))
    return errors


REGIONS: dict[str, tuple[Callable[[], Extension], float]] = {
    "plain": (Plain, 0.0),
    "confidence": (lambda: ConfidenceRadius(level=LEVEL, holdout=0.5), 0.5),
    "held-out guard": (lambda: HeldOutValidation(level=LEVEL, holdout=0.25), 0.25),
    "uncertainty": (UncertaintyRegion, 0.0),
}
"""Name -> what makes the extension, and the part of the episodes that it keeps aside."""


class Harm(NamedTuple):
    """What became of independent batches, at parameters all along a training: shares of all of them.

    ``gain`` is the mean change of the true return, ``loss`` that of the harmful steps, spread over all batches.
    """

    problem: str
    region: str
    episodes: int
    batches: int
    accepted: float
    harmful: float
    gain: float
    loss: float

    @property
    def harmful_of_accepted(self) -> float:
        """The share of harmful steps among those that were made; a test that picks at random does not lower it."""
        return self.harmful / self.accepted if self.accepted else 0.0


def harm(
    name: str, region: str, episodes: int, batches: int = 1000, make: Callable[[], Extension] | None = None
) -> Harm:
    """Steps on ``batches`` batches of so many episodes each, in one of the `REGIONS`, or one like it that is made."""
    usual, fraction = REGIONS[region]
    make = make or usual
    problem, visited = trajectory(PROBLEMS[name])
    generator = th.Generator().manual_seed(3)
    kept = round(fraction * episodes)
    gains, accepted = [], 0
    per_place = batches // len(visited)
    for parameters in visited:
        assign(problem.parameters, parameters)
        before = problem.exact_return()
        for batch in noisy(problem, episodes * per_place, generator).split(episodes):
            assign(problem.parameters, parameters)
            learned, held_out = _parted(batch, episodes - kept)
            accepted += update(problem, learned, make(), RADIUS, held_out).accepted
            gains.append(problem.exact_return() - before)
    gained = np.asarray(gains)
    n = len(gains)
    return Harm(
        name,
        region,
        episodes,
        n,
        accepted / n,
        float((gained < 0).mean()),
        float(gained.mean()),
        float(np.minimum(gained, 0).mean()),
    )


def _parted(batch: Episodes, count: int) -> tuple[Episodes, Episodes | None]:
    is_learned = batch.clusters < count

    def part(rows: Tensor) -> Episodes:
        chosen = Episodes(*(column[rows] for column in batch))
        return chosen._replace(
            weights=normalized_weights(chosen.weights), clusters=chosen.clusters - chosen.clusters[0]
        )

    return part(is_learned), None if is_learned.all() else part(~is_learned)


class Learning(NamedTuple):
    """True return after so many ``episodes`` in all, of a training with M = ``reuse`` batches of ``batch`` episodes."""

    problem: str
    reuse: int
    bound: str
    batch: int
    seed: int
    episodes: int
    exact_return: float


BOUNDS: dict[str, Callable[[], ReuseBound]] = {"fixed": FixedBound, "adaptive": AdaptiveBound}
EPISODES = 12
"""Behind each update, of one batch or of several."""


def learning(
    name: str, reuse: int, seed: int, bound: str = "fixed", batch: int | None = None, total: int = 360
) -> list[Learning]:
    """The last M batches in each update, by V-trace and in the smaller region.

    There are `EPISODES` in all of them; with ``batch`` as many in each.
    """
    problem, generator = PROBLEMS[name](), th.Generator().manual_seed(seed)
    size, kept, curve = batch or EPISODES // reuse, [], []
    for number in range(total // size):
        curve.append(Learning(name, reuse, bound, size, seed, number * size, problem.exact_return()))
        kept = [*kept, problem.sample(size, generator)][-reuse:]
        seen = [_seen_now(problem, one) for one in kept]
        drift = float(np.mean([total_variation(ratios) for _, ratios in seen]))
        joined = Episodes(*(th.cat(columns) for columns in zip(*(now for now, _ in seen), strict=True)))
        joined = joined._replace(weights=joined.weights / len(kept), clusters=th.arange(len(joined.times)))
        batches = batches_of(joined)
        radius = BOUNDS[bound]().within(LEARNING_RADIUS, reuse, len(kept), drift)
        natural_step(constrained_problem(problem, batches), radius=radius, **SETTINGS)  # type: ignore[arg-type]
    return curve


def ways() -> list[tuple[int, str, int]]:
    """Rollouts in an update, bound, episodes a batch: small batches are used once, too, to tell what reuse adds."""
    once = [(1, "fixed", EPISODES // reuse) for reuse in REUSES]
    return once + [(reuse, bound, EPISODES // reuse) for reuse in REUSES if reuse > 1 for bound in BOUNDS]


def _seen_now(problem: ExactProblem, old: Episodes) -> tuple[Episodes, Array]:
    """Episodes of an older policy with the advantages of the present one, V-trace with exact values; and the ratios."""
    shape = (-1, problem.horizon)

    def grid(column: Tensor) -> Any:
        return column.view(shape).T.numpy()

    with th.no_grad():
        ratios = (problem.policy(old.observations).log_prob(old.actions) - old.log_prob).exp()
    values = problem.exact_values(old.observations, old.times)
    n_episodes = len(old.times) // problem.horizon
    advantages = generalized_advantages(
        grid(old.rewards),
        grid(values),
        grid(old.episode_starts.double()),
        np.zeros(n_episodes),
        np.ones(n_episodes),
        problem.discount,
        1.0,
        grid(ratios.clamp(max=1.0)),
    )
    return old._replace(advantages=th.as_tensor(advantages.T.reshape(-1).copy()), values=values), ratios.numpy()


def episodes_needed(curve: list[Learning], share: float) -> float:
    """Episodes until that share of the way from the first return to the best possible one; infinite if never."""
    problem = PROBLEMS[curve[0].problem]()
    aim = curve[0].exact_return + share * (problem.optimal_return() - curve[0].exact_return)
    return min((point.episodes for point in curve if point.exact_return >= aim), default=float("inf"))


SHOWN = ("batch", "tracked, weight 0.5", "by the Hessian, weight 0.5")
"""Estimators whose variance and bias are drawn."""
REUSES = (1, 2, 4, 6)
SEEDS = range(5)
LATE = 240
"""Episodes after which a training is late."""
BATCHES = (4, 10)
"""Episodes of a batch."""
REFERENCE: Any = {"color": "#5f6368", "linestyle": "--", "linewidth": 1}


def main(
    quick: Annotated[bool, typer.Option(help="A tenth of everything, to see that it runs.")] = False,
    folder: Annotated[Path, typer.Option(help="Where tables and figure go.")] = FOLDER,
) -> None:
    """Extensions on problems whose answers are known: tables and a figure."""
    th.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    errors = [e for name in PROBLEMS for e in tracking(name, ESTIMATORS, repetitions=10 if quick else 200)]
    _write(folder / "tracking.csv", errors)
    harms = [
        harm(name, region, episodes, 100 if quick else 1000)
        for name in PROBLEMS
        for episodes in BATCHES
        for region in REGIONS
    ]
    _write(folder / "harm.csv", harms)
    curves = [
        point
        for name in PROBLEMS
        for reuse, bound, batch in ways()
        for seed in (SEEDS[:1] if quick else SEEDS)
        for point in learning(name, reuse, seed, bound, batch)
    ]
    _write(folder / "reuse.csv", curves)
    draw(errors, harms, curves, folder / "known_answers.png")
    for line in summary(errors, harms, curves):
        typer.echo(line)


def summary(errors: list[TrackingError], harms: list[Harm], curves: list[Learning]) -> list[str]:
    """Markdown tables of all three."""
    lines = ["| problem | gradient | variance | squared bias | cosine |", "|---|---|---|---|---|"]
    for name, estimator in dict.fromkeys((e.problem, e.estimator) for e in errors):
        chosen = [e for e in errors if (e.problem, e.estimator) == (name, estimator) and e.update >= 5]
        variance, bias, cosine = np.median([(e.variance, e.bias, e.cosine) for e in chosen], 0)
        lines.append(f"| {name} | {estimator} | {variance:.2f} | {bias:.3f} | {cosine:.2f} |")
    lines += [
        "",
        "| problem | episodes a batch | region | accepted | harmful | of accepted | mean gain | mean loss |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {h.problem} | {h.episodes} | {h.region} | {h.accepted:.1%} | {h.harmful:.1%} "
        f"| {h.harmful_of_accepted:.1%} | {h.gain:.3f} | {h.loss:.3f} |"
        for h in harms
    ]
    lines += ["", "| problem | rollouts in an update | episodes in each | bound | to 50 % | to 80 % | to 90 % | late |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for kind in dict.fromkeys((p.problem, p.reuse, p.bound, p.batch) for p in curves):
        runs = _by_seed(curves, *kind)
        needed = np.median([[episodes_needed(run, share) for share in (0.5, 0.8, 0.9)] for run in runs], 0)
        late = np.mean([p.exact_return for run in runs for p in run if p.episodes >= LATE])
        name, reuse, bound, batch = kind
        figures = " | ".join(f"{number:.0f}" for number in needed)
        lines.append(f"| {name} | {reuse} | {batch} | {bound if reuse > 1 else ''} | {figures} | {late:.1f} |")
    return lines


def _by_seed(curves: list[Learning], name: str, reuse: int, bound: str, batch: int) -> list[list[Learning]]:
    chosen = [p for p in curves if (p.problem, p.reuse, p.bound, p.batch) == (name, reuse, bound, batch)]
    return [[p for p in chosen if p.seed == seed] for seed in dict.fromkeys(p.seed for p in chosen)]


def draw(errors: list[TrackingError], harms: list[Harm], curves: list[Learning], path: Path) -> None:
    """A row for each problem: the tracked gradient's cosine, and its variance and bias; harmful steps; learning with
    samples used again.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    from sb3_trpo.evaluation.curves import COLORS

    figure, axes = plt.subplots(len(PROBLEMS), 4, figsize=(17, 7), layout="constrained")
    for row, name in zip(axes, PROBLEMS, strict=True):
        weights = dict(zip(dict.fromkeys(e.estimator.split(", ")[-1] for e in errors), COLORS, strict=False))
        for estimator in dict.fromkeys(e.estimator for e in errors):
            points = [e for e in errors if (e.problem, e.estimator) == (name, estimator)]
            kind, weight = estimator.split(", ")[0], estimator.split(", ")[-1]
            color, style = weights[weight], {"by the Hessian": "--", "averaged": ":"}.get(kind, "-")
            row[0].plot([e.update for e in points], [e.cosine for e in points], style, color=color, label=estimator)
        row[0].set(title=f"{name}: cosine with the true gradient", xlabel="update", ylim=(0, 1))
        for color, estimator in zip(COLORS, SHOWN, strict=False):
            points = [e for e in errors if (e.problem, e.estimator) == (name, estimator)]
            for style, title, attribute in (("-", "variance", "variance"), (":", "squared bias", "bias")):
                errors_of = [getattr(e, attribute) for e in points]
                row[1].plot([e.update for e in points], errors_of, style, color=color, label=f"{title}: {estimator}")
        row[1].set_yscale("symlog", linthresh=0.1)
        row[1].set_ylim(top=1e4)  # room for the legend
        row[1].set(title=f"{name}: the gradient's error, relative", xlabel="update")
        chosen = [h for h in harms if h.problem == name]
        places = {region: number for number, region in enumerate(REGIONS)}
        for offset, color, episodes in zip((-0.2, 0.2), COLORS, BATCHES, strict=False):
            some = [h for h in chosen if h.episodes == episodes]
            heights = [100 * h.harmful for h in some]
            middles = [places[h.region] + offset for h in some]
            row[2].bar(middles, heights, 0.4, color=color, label=f"{episodes} episodes a batch")
        row[2].axhline(100 * LEVEL, **REFERENCE, label="level of the confidence radius")
        row[2].set_xticks(list(places.values()), [region.replace(" ", "\n") for region in places])
        row[2].set_ylim(0, 1.4 * row[2].get_ylim()[1])  # room for the legend
        row[2].set(title=f"{name}: batches whose step does harm, %")
        colors = dict(zip(dict.fromkeys(p.reuse for p in curves), COLORS, strict=False))
        sizes = {p.batch for p in curves}
        for reuse, bound, batch in dict.fromkeys((p.reuse, p.bound, p.batch) for p in curves):
            if reuse == 1 and batch not in (max(sizes), min(sizes)):
                continue  # enough lines
            runs = _by_seed(curves, name, reuse, bound, batch)
            label = f"batches of {batch}" if reuse == 1 else f"last {reuse} of {batch}, {bound} bound"
            mean = np.mean([[p.exact_return for p in run] for run in runs], 0)
            style = "--" if reuse == 1 and batch < max(sizes) else ":" if bound == "adaptive" else "-"
            row[3].plot([p.episodes for p in runs[0]], mean, style, color=colors[reuse], label=label)
        row[3].axhline(PROBLEMS[name]().optimal_return(), **REFERENCE, label="optimum")
        row[3].set(title=f"{name}: true return", xlabel="episodes")
    for axis in axes[0]:
        axis.legend(frameon=False, fontsize=8)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def read_summary(folder: Path = FOLDER) -> list[str]:
    """The Markdown tables of what was measured before."""
    kinds = {"tracking": TrackingError, "harm": Harm, "reuse": Learning}
    return summary(*(_read(folder / f"{name}.csv", kind) for name, kind in kinds.items()))


def _read(path: Path, kind: Any) -> list[Any]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return [kind(**{name: get_type_hints(kind)[name](value) for name, value in row.items()}) for row in rows]


def _write(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in rows)


if __name__ == "__main__":
    typer.run(main)
