"""A table of the runs in a folder."""

from datetime import datetime
from pathlib import Path

import numpy as np
from rich.table import Table

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.runs import Run, find_runs


def runs_table(log_folder: str | Path, env_id: str | None = None) -> Table:
    """Run folders with steps, mean returns of the last and the best evaluation, and when they were last written to.

    :param env_id: only runs of this environment
    :raises UsageError: when there is none
    """
    runs = [run for run in find_runs(log_folder) if env_id in (None, run.env_id)]
    if not runs:
        raise UsageError(f"{log_folder} holds no run{'' if env_id is None else f' of {env_id}'}: make one with train")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run", no_wrap=True)
    for column in ("seed", "steps", "last", "best", "written"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(str(run.folder), *_columns(run))
    return table


def _columns(run: Run) -> tuple[str, ...]:
    written = f"{datetime.fromtimestamp(run.folder.stat().st_mtime):%Y-%m-%d %H:%M}"
    file = run.folder / "evaluations.npz"
    seed = str(run.arguments.get("seed", ""))
    if not file.is_file():
        return seed, "", "", "", written
    with np.load(file) as saved:
        steps, means = saved["timesteps"], saved["results"].mean(1)
    return seed, f"{int(steps[-1]):,}", f"{means[-1]:.1f}", f"{means.max():.1f}", written
