"""Markdown tables of a table of scores."""

from collections.abc import Iterable, Mapping

from sb3_trpo.evaluation import captions
from sb3_trpo.evaluation.scores import Score
from sb3_trpo.evaluation.statistics import SAMPLES
from sb3_trpo.evaluation.summary import Range, Summary, summarize


def markdown_report(
    scores: Iterable[Score],
    *,
    references: Mapping[str, Range] | None = None,
    first: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> str:
    """Final scores, aggregates and probabilities of improvement as Markdown; arguments as of `summarize`."""
    return report(summarize(scores, references=references, first=first, samples=samples, seed=seed))


def report(summary: Summary) -> str:
    """The same of numbers that are there already; ends with a newline."""
    sections = [finals(summary)]
    if summary.compared:
        sections.append(aggregates(summary))
    if summary.improvement:
        sections.append(improvement(summary))
    notes = [f"{captions.INTERVALS}."]
    if captions.one_seed(summary):
        notes.append(captions.ONE_SEED)
    if not summary.compared:
        notes.append(captions.compared(summary))
    return "\n\n".join([*sections, " ".join(notes)]) + "\n"


def finals(summary: Summary) -> str:
    """A row for every environment and contestant."""
    rows = [
        [
            env,
            name,
            f"{captions.number(final.mean)} ± {captions.number(final.std)}",
            captions.interval(final.iqm),
            str(final.n_seeds),
            "–".join(f"{steps:,}" for steps in dict.fromkeys(final.steps)),
            captions.duration(final.wall_s, max(other.wall_s for other in group.values())),
        ]
        for env, group in summary.finals.items()
        for name, final in ((name, group[name]) for name in summary.contestants if name in group)
    ]
    header = ["environment", "contestant", "mean ± std", "IQM [95% interval]", "seeds", "steps", "wall-clock"]
    return f"### Final scores\n\n{captions.FINALS}\n\n{table(header, rows, numbers=5)}"


def aggregates(summary: Summary) -> str:
    """A row for every contestant, a column for every statistic."""
    rows = [[name, *map(captions.interval, values)] for name, values in summary.aggregates.items()]
    ends = "; ".join(
        f"{env}: {captions.number(low)} to {captions.number(high)}"
        for env, (low, high) in summary.ranges.items()
        if env in summary.compared
    )
    text = (
        f"{captions.AGGREGATES} {captions.compared(summary)} Scores are normalised: "
        f"{captions.normalization(summary)} ({ends})."
    )
    header = ["contestant", *(f"{name} [95% interval]" for name in captions.STATISTICS.values())]
    return f"### Aggregates\n\n{text}\n\n{table(header, rows, numbers=3)}"


def improvement(summary: Summary) -> str:
    """A row for every contestant but the first."""
    first = summary.contestants[0]
    rows = [[f"{first} over {name}", captions.interval(value)] for name, value in summary.improvement.items()]
    text = captions.improvement(summary)
    header = ["", "probability [95% interval]"]
    return f"### Probability of improvement\n\n{text}\n\n{table(header, rows, numbers=1)}"


def table(header: list[str], rows: list[list[str]], numbers: int) -> str:
    """A table whose last ``numbers`` columns are set to the right."""
    rules = ["---"] * (len(header) - numbers) + ["--:"] * numbers
    lines = [header, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
