"""Our algorithms inside RL Zoo: its ``train`` and ``enjoy`` with our classes, hyperparameters and search spaces.

    python -m sb3_trpo.zoo --algo trpo --env CartPole-v1            RL Zoo's train, with our hyperparameters
    python -m sb3_trpo.zoo train --env CartPole-v1 -optimize        its search, in our space
    python -m sb3_trpo.zoo enjoy --env CartPole-v1 -f logs          its enjoy

All options are RL Zoo's. Differs from ``python -m rl_zoo3.train`` in that ``trpo`` is ours and the default of
``--algo``, and that our file is the default of ``-conf``. In a script of your own, `register` comes before
``rl_zoo3.train.train``.

RL Zoo knows memories but no action masks: its evaluations and its ``enjoy`` let ``trpo_mask`` choose actions that are
not allowed. ``sb3-trpo train`` and ``sb3-trpo enjoy`` pass the masks.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sb3_trpo.zoo.algorithms import OURS, algorithm_class
from sb3_trpo.zoo.errors import UsageError, did_you_mean
from sb3_trpo.zoo.hyperparams import hyperparams_file

if TYPE_CHECKING:
    from optuna import Trial

COMMANDS = ("train", "enjoy")
"""RL Zoo's commands; the first is meant where none is given."""


def register() -> None:
    """Make RL Zoo know our algorithms: classes, samplers, and converters for ``--trial-id``.

    RL Zoo's own TRPO, that of sb3-contrib, is replaced. RL Zoo's dictionaries are changed, not replaced: its modules
    share them. Importing it patches Gymnasium and numpy, hence it is imported here only.

    :raises UsageError: when RL Zoo is not installed
    """
    from sb3_trpo.zoo.spaces import CONVERTERS

    algos = _import("rl_zoo3").ALGOS
    search = _import("rl_zoo3.hyperparams_opt")
    for algo in OURS:
        algos[algo] = algorithm_class(algo)
        search.HYPERPARAMS_SAMPLER[algo] = _sampler(algo)
        search.HYPERPARAMS_CONVERTER[algo] = CONVERTERS[algo]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run RL Zoo's ``train`` or ``enjoy`` with our algorithms.

    :param arguments: of the command line, those of the process by default
    :return: 0, or 2 when the reason why nothing could be done was printed
    """
    from sb3_trpo.zoo.training import hush_mujoco

    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and not given[0].startswith("-") else COMMANDS[0]
    before = sys.argv
    try:
        if command not in COMMANDS:
            raise UsageError(f"command {command!r} is unknown{did_you_mean(command, COMMANDS)}")
        options = _with_our_defaults(command, given)
        register()
        hush_mujoco()
        run = getattr(_import(f"rl_zoo3.{command}"), command)
        sys.argv = [f"python -m sb3_trpo.zoo {command}", *options]
        run()
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        sys.argv = before
    return 0


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"RL Zoo cannot be used ({error}): pip install 'sb3-trpo[zoo]'") from error


def _sampler(algo: str) -> Any:
    """The sampler of ``algo``, which notes the number of environments in the trial.

    RL Zoo converts a trial from its parameters alone. The number of steps of each environment is the size of the
    rollout divided by their number, which the trial must therefore know.
    """
    from sb3_trpo.zoo.spaces import SAMPLERS

    def sample(
        trial: "Trial", n_actions: int, n_envs: int, additional_args: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        trial.suggest_categorical("n_envs", [n_envs])
        return SAMPLERS[algo](trial, n_actions, n_envs, additional_args)

    return sample


class _Options(argparse.ArgumentParser):
    """Raises instead of printing its own usage, which holds a few of RL Zoo's options only."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _with_our_defaults(command: str, given: Sequence[str]) -> list[str]:
    """The options of a command, with the algorithm and the hyperparameter file where they were left out."""
    parser = _Options(add_help=False)
    parser.add_argument("--algo")
    if command == "train":
        parser.add_argument("-conf", "--conf-file")
        parser.add_argument("--trial-id", type=int)
    options, _ = parser.parse_known_args(given)
    added = [] if options.algo else ["--algo", OURS[0]]
    if command == "train":
        if options.trial_id == 0:
            raise UsageError(
                "--trial-id 0 means no trial to RL Zoo, which would train with the file's hyperparameters: "
                "count from the end, -5 is the first of five"
            )
        algo = options.algo or OURS[0]
        if algo in OURS and not options.conf_file:
            added += ["-conf", str(hyperparams_file(algo))]
    return [*added, *given]
