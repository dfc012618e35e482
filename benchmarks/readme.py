"""The tables of scores and of recurrent updates in the README, from the results: ``python -m benchmarks.readme``.

A table stands between ``<!-- scores FOLDER -->`` and ``<!-- end of scores -->``, and is that of the final scores of
``FOLDER/scores.csv`` as ``sb3-trpo report`` writes it; one with a row for each contestant, between
``<!-- compared FOLDER -->`` and ``<!-- end of compared -->``; that of ``memory_speed.csv`` between
``<!-- memory speed -->`` and ``<!-- end of memory speed -->``. What everybody had reached when a contestant had
finished stands between ``<!-- equal time FOLDER, CONTESTANT -->`` and ``<!-- end of equal time -->``, and what
extensions do where the answer is known between ``<!-- known answers -->`` and ``<!-- end of known answers -->``.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median

from benchmarks import known_answers, memory_speed
from sb3_trpo.evaluation import captions
from sb3_trpo.evaluation.report import finals, table
from sb3_trpo.evaluation.scores import read_scores
from sb3_trpo.evaluation.statistics import Interval
from sb3_trpo.evaluation.summary import summarize

ROOT = Path(__file__).parent.parent
MEMORY_SPEED = re.compile(r"(<!-- memory speed -->\n).*?(<!-- end of memory speed -->)", re.DOTALL)
KNOWN_ANSWERS = re.compile(r"(<!-- known answers -->\n).*?(<!-- end of known answers -->)", re.DOTALL)
PLACE = re.compile(r"(<!-- scores (\S+) -->\n).*?(<!-- end of scores -->)", re.DOTALL)

COMPARED = re.compile(r"(<!-- compared (\S+) -->\n).*?(<!-- end of compared -->)", re.DOTALL)
EQUAL_TIME = re.compile(r"(<!-- equal time (\S+), (.+?) -->\n).*?(<!-- end of equal time -->)", re.DOTALL)


def equal_time(folder: str, contestant: str) -> str:
    """Mean scores of all contestants in the wall-clock that ``contestant`` needs, by the median over its seeds."""
    scores = read_scores(ROOT / folder / "scores.csv")
    names, envs = (list(dict.fromkeys(getattr(score, key) for score in scores)) for key in ("implementation", "env"))
    lines = [f"| environment | training time | {' | '.join(names)} |", f"| --- | --: |{' --: |' * len(names)}"]
    for env in envs:
        runs = defaultdict(list)
        for score in scores:
            if score.env == env:
                runs[score.implementation, score.seed].append(score)
        limit = median(run[-1].wall_s for (name, _), run in runs.items() if name == contestant)
        means = []
        for name in names:
            reached = [
                [score.eval_mean for score in run if score.wall_s <= max(limit, run[0].wall_s)][-1]
                for (other, _), run in runs.items()
                if other == name
            ]
            means.append(f"{mean(reached):,.4g}")
        lines.append(f"| {env} | {limit:.0f} s | {' | '.join(means)} |")
    return "".join(f"{line}\n" for line in lines)


def compared(folder: str) -> str:
    """A row for each contestant: interquartile means of the final scores in every environment, that over all of them
    (0 the lowest first evaluation, 1 the best final score), and how probably a run is better than one of the first
    contestant; 95 % bootstrap intervals. Contestants who have runs still to make are left out.
    """
    scores = read_scores(ROOT / folder / "scores.csv")
    runs = Counter(name for name, _, _ in {(score.implementation, score.env, score.seed) for score in scores})
    summary = summarize([score for score in scores if runs[score.implementation] == max(runs.values())])
    first, *_ = summary.contestants
    rows = []
    for name, aggregate in summary.aggregates.items():
        ends = [captions.number(summary.finals[env][name].iqm.value) for env in summary.compared]
        worse = summary.improvement.get(name)
        better = (
            "" if worse is None else captions.interval(Interval(*(1.0 - x for x in (worse[0], worse[2], worse[1]))))
        )
        rows.append([name, *ends, captions.interval(aggregate.iqm), better])
    header = ["", *(env.split("-")[0] for env in summary.compared), "all", f"better than {first}"]
    return table(header, rows, numbers=len(header) - 1) + "\n"


def final_scores(folder: str) -> str:
    """The table of the final scores in ``folder``, with a line end."""
    lines = finals(summarize(read_scores(ROOT / folder / "scores.csv"))).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("|"))


def with_scores(text: str) -> str:
    """``text`` with its tables of scores as the results are."""
    text = MEMORY_SPEED.sub(lambda match: f"{match[1]}{memory_speed.table(memory_speed.read())}\n{match[2]}", text)
    text = EQUAL_TIME.sub(lambda match: match[1] + equal_time(match[2], match[3]) + match[4], text)
    text = KNOWN_ANSWERS.sub(lambda match: match[1] + "\n".join(known_answers.read_summary()) + "\n" + match[2], text)
    text = COMPARED.sub(lambda match: match[1] + compared(match[2]) + match[3], text)
    return PLACE.sub(lambda match: match[1] + final_scores(match[2]) + match[3], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_scores(readme.read_text(encoding="utf-8")), encoding="utf-8")
