"""The runs in a folder, one line each."""

import contextlib
import zipfile
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.runs import Run, find_runs


class Listed(NamedTuple):
    """A run as it is shown: ``last`` and ``best`` are mean returns of evaluations; empty where nothing is known."""

    run: str
    seed: str
    steps: str
    last: str
    best: str
    written: str


def list_runs(log_folder: str | Path, env_id: str | None = None) -> list[Listed]:
    """The runs in ``log_folder``.

    :param env_id: only runs of this environment
    :raises UsageError: when there is none
    """
    runs = [run for run in find_runs(log_folder) if env_id in (None, run.env_id)]
    if not runs:
        raise UsageError(f"{log_folder} holds no run{'' if env_id is None else f' of {env_id}'}: make one with train")
    return [_listed(run) for run in runs]


def _listed(run: Run) -> Listed:
    seed = steps = last = best = ""
    with contextlib.suppress(UsageError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # then unknown
        seed = str(run.arguments.get("seed", ""))
        with np.load(run.folder / "evaluations.npz") as saved:
            timesteps, means = saved["timesteps"], saved["results"].mean(1)
        steps, last, best = f"{int(timesteps[-1]):,}", f"{means[-1]:.1f}", f"{means.max():.1f}"
    return Listed(str(run.folder), seed, steps, last, best, f"{datetime.fromtimestamp(run.changed):%Y-%m-%d %H:%M}")
