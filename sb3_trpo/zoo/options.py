"""Options that commands share, and what is done with them."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sb3_trpo.zoo.errors import UsageError, whole

Env = Annotated[str, typer.Option("--env", help="Id of a registered environment.", metavar="ID")]
Algo = Annotated[
    str,
    typer.Option(
        "--algo",
        help="trpo; trpo_mask with action masks, trpo_lstm with a memory, trpo_mask_lstm with both; with --hyperparams "
        "also ppo, ppo_mask, ppo_lstm, a2c, or module:Class such as sb3_contrib:TRPO.",
    ),
]
HyperparamsFile = Annotated[
    Path | None,
    typer.Option(
        "--hyperparams", "--conf-file", help="File in RL Zoo's format.", show_default="the shipped one", metavar="FILE"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-P", "--param", help="Set a hyperparameter, as often as you like.", metavar="KEY=VALUE"),
]
Steps = Annotated[
    float | None,
    typer.Option("-n", "--n-timesteps", help="Environment steps.", show_default="from the file", metavar="N"),
]
LogFolder = Annotated[Path, typer.Option("-f", "--log-folder", help="Where run folders are.", metavar="FOLDER")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ... Small networks are fastest on the CPU.")]
Threads = Annotated[int, typer.Option(help="Threads of torch; one is fastest for small networks.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or environment id for its latest run.")]
Best = Annotated[bool, typer.Option("--best", help="The model of the best evaluation, not the last one.")]
Averaged = Annotated[
    bool, typer.Option("--averaged", help="The average of the policies at the end, of the callback AveragedPolicy.")
]
Stochastic = Annotated[bool, typer.Option("--stochastic", help="Sample actions, as in training.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code in the files of the run, such as lambdas: for runs you made yourself.")
]
First = Annotated[
    str | None, typer.Option("--first", help="Contestant to put first.", show_default="the first in the table")
]
GymPackages = Annotated[
    list[str] | None,
    typer.Option("--gym-packages", help="Module to import first: it registers environments.", metavar="MODULE"),
]


def prepare(gym_packages: Sequence[str] | None = None, num_threads: int = 1) -> None:
    """Register environments, find modules in this folder, and set threads before numpy is loaded."""
    whole("--num-threads", num_threads, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    from sb3_trpo.zoo.training import hush_mujoco, use_threads

    use_threads(num_threads)
    hush_mujoco()
    if "" not in sys.path:
        sys.path.insert(0, "")  # as with `python -m`: environments ("module:id"), classes in files, --gym-packages
    try:
        for module in gym_packages or ():
            importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--gym-packages: {error}") from error


def parse_overrides(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Hyperparameters of the ``KEY=VALUE`` that were given."""
    from sb3_trpo.zoo.hyperparams import parse_override

    return dict(parse_override(pair) for pair in pairs or ())
