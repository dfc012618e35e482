"""The tables of scores and of recurrent updates in the README, from the results: ``python -m benchmarks.readme``.

A table stands between ``<!-- scores FOLDER -->`` and ``<!-- end of scores -->``, and is that of the final scores of
``FOLDER/scores.csv`` as ``sb3-trpo report`` writes it; that of ``memory_speed.csv`` between ``<!-- memory speed -->``
and ``<!-- end of memory speed -->``.
"""

import re
from pathlib import Path

from benchmarks import memory_speed
from sb3_trpo.evaluation.report import finals
from sb3_trpo.evaluation.scores import read_scores
from sb3_trpo.evaluation.summary import summarize

ROOT = Path(__file__).parent.parent
MEMORY_SPEED = re.compile(r"(<!-- memory speed -->\n).*?(<!-- end of memory speed -->)", re.DOTALL)
PLACE = re.compile(r"(<!-- scores (\S+) -->\n).*?(<!-- end of scores -->)", re.DOTALL)


def final_scores(folder: str) -> str:
    """The table of the final scores in ``folder``, with a line end."""
    lines = finals(summarize(read_scores(ROOT / folder / "scores.csv"))).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith("|"))


def with_scores(text: str) -> str:
    """``text`` with its tables of scores as the results are."""
    text = MEMORY_SPEED.sub(lambda match: f"{match[1]}{memory_speed.table(memory_speed.read())}\n{match[2]}", text)
    return PLACE.sub(lambda match: match[1] + final_scores(match[2]) + match[3], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_scores(readme.read_text(encoding="utf-8")), encoding="utf-8")
