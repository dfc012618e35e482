"""Run folders in RL Zoo's layout, so that its ``enjoy``, ``plot_train`` and ``all_plots`` read them.

runs/trpo/CartPole-v1_1/
    0.monitor.csv ...             training episodes
    progress.csv                  the log
    evaluations.npz               evaluations while training
    scores.csv                    the same as a table of scores, for `sb3-trpo plot`
    best_model.zip                the model of the best of them ...
    best_vecnormalize.pkl         ... with the statistics it had then (RL Zoo pairs it with the last ones)
    averaged_model.zip            where one is kept, the average of the policies at the end, and its statistics
    rl_model_20000_steps.zip      checkpoints, and rl_model_vecnormalize_20000_steps.pkl
    CartPole-v1.zip               the model at the end
    CartPole-v1/config.yml        hyperparameters
    CartPole-v1/args.yml          what else was asked for
    CartPole-v1/command.txt
    CartPole-v1/vecnormalize.pkl  observation and reward statistics at the end
    .lock                         held while it is trained
"""

import contextlib
import csv
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from filelock import FileLock

from sb3_trpo.zoo.errors import UsageError, did_you_mean
from sb3_trpo.zoo.files import replacing, write_text
from sb3_trpo.zoo.hyperparams import Hyperparams, plain, read_yaml

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm


SCORES = "scores.csv"
"""Name of the table of scores in a run folder."""


class Checkpoint(NamedTuple):
    """A model file, and the file of its observation statistics (which need not exist)."""

    model: Path
    statistics: Path


class Run(NamedTuple):
    """A run folder: ``folder``, and the algorithm and environment it belongs to."""

    folder: Path
    algo: str
    env_id: str

    @property
    def settings(self) -> Path:
        """The folder of config, arguments and command."""
        return self.folder / file_name(self.env_id)

    @property
    def final(self) -> Checkpoint:
        """What the training ended with."""
        return Checkpoint(self.folder / f"{file_name(self.env_id)}.zip", self.settings / "vecnormalize.pkl")

    @property
    def best(self) -> Checkpoint:
        """What did best in an evaluation."""
        return Checkpoint(self.folder / "best_model.zip", self.folder / "best_vecnormalize.pkl")

    @property
    def averaged(self) -> Checkpoint:
        """The average of the policies that the training ended with."""
        return Checkpoint(self.folder / "averaged_model.zip", self.folder / "averaged_vecnormalize.pkl")

    def checkpoint(self, step: int) -> Checkpoint:
        """What was saved after ``step`` steps."""
        return Checkpoint(
            self.folder / f"rl_model_{step}_steps.zip", self.folder / f"rl_model_vecnormalize_{step}_steps.pkl"
        )

    @property
    def newest(self) -> Checkpoint:
        """The final model, else the last checkpoint.

        :raises UsageError: when there is neither
        """
        if self.final.model.is_file():
            return self.final
        steps = [int(path.name.split("_")[2]) for path in self.folder.glob("rl_model_*_steps.zip")]
        if not steps:
            raise UsageError(f"run {self.folder} holds no model: it was stopped before its first checkpoint")
        return self.checkpoint(max(steps))

    @property
    def hyperparams(self) -> Hyperparams:
        """What it was trained with."""
        return _dictionary(self.settings / "config.yml")

    @property
    def arguments(self) -> dict[str, Any]:
        """What else was asked for: seed, steps, evaluations, ..."""
        return _dictionary(self.settings / "args.yml")

    @property
    def changed(self) -> float:
        """When it was last begun or gone on with, in seconds."""
        return (self.settings / "args.yml").stat().st_mtime

    def lock(self) -> FileLock:
        """What whoever trains it must hold; released by the system when the process ends."""
        return FileLock(self.folder / ".lock")


def file_name(env_id: str) -> str:
    """RL Zoo's name of an environment in paths: ``ALE/Pong-v5`` is ``ALE-Pong-v5``."""
    return env_id.replace("/", "-")


def new_run(log_folder: Path, algo: str, env_id: str) -> Run:
    """A folder ``log_folder/ALGO/ENV_N`` of its own, N one more than the last, even when several runs start at once."""
    parent = log_folder / algo.replace(":", "-")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / f"{file_name(env_id)}_{_last_number(parent, env_id) + 1}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                (folder / file_name(env_id)).mkdir()
                return Run(folder, algo, env_id)
    except OSError as error:
        raise UsageError(f"no run folder can be made in {parent}: {error.strerror or error}") from error


def write_settings(run: Run, hyperparams: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Write ``config.yml`` and ``args.yml``, and add a line to ``command.txt``."""
    write_text(run.settings / "config.yml", yaml.safe_dump(plain(hyperparams)))
    write_text(run.settings / "args.yml", yaml.safe_dump({"algo": run.algo, "env": run.env_id, **arguments}))
    file = run.settings / "command.txt"
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    write_text(file, before + shlex.join(sys.orig_argv) + "\n")


def find_run(where: str | Path, log_folder: str | Path = "runs") -> Run:
    """The run in a folder, or the latest of an environment.

    :param where: a run folder, or an environment id
    :param log_folder: where runs of an environment are looked for
    :raises UsageError: when there is no such run
    """
    folder = Path(where)
    if folder.is_dir():
        for settings in sorted(folder.glob("*/args.yml")):
            arguments = read_yaml(settings)
            if isinstance(arguments, dict) and {"algo", "env"} <= arguments.keys():
                return Run(folder, str(arguments["algo"]), str(arguments["env"]))
        raise UsageError(f"{folder} is no run folder: it holds no ENV/args.yml")
    runs = find_runs(log_folder)
    matching = [run for run in runs if run.env_id == str(where)]
    if not matching:
        known = {str(run.folder) for run in runs} | {run.env_id for run in runs}
        hint = did_you_mean(where, known) if known else f": there are none in {log_folder}"
        raise UsageError(f"run {str(where)!r} does not exist{hint}")
    return max(matching, key=lambda run: (run.changed, _number(run.folder.name)))


def find_runs(log_folder: str | Path) -> list[Run]:
    """All runs in ``log_folder/ALGO/``, by algorithm, environment and number."""
    found = []
    for folder in Path(log_folder).glob("*/*_*"):
        with contextlib.suppress(UsageError):
            found.append(find_run(folder))
    return sorted(found, key=lambda run: (run.algo, run.env_id, _number(run.folder.name)))


def save_checkpoint(model: "BaseAlgorithm", checkpoint: Checkpoint) -> None:
    """Write a model and its observation statistics, each whole or not at all.

    :raises UsageError: when they cannot be written
    """
    from sb3_trpo.saving.normalizer import save_normalizer

    statistics = model.get_vec_normalize_env()
    try:
        if statistics is not None:
            save_normalizer(statistics, checkpoint.statistics)
        with replacing(checkpoint.model) as temporary, temporary.open("wb") as stream:
            model.save(stream)  # those of other packages would not write it whole or not at all
    except OSError as error:
        raise UsageError(str(error)) from error


def keep_as_checkpoint(run: Run, checkpoint: Checkpoint, step: int) -> None:
    """Make the final model of a run that goes on a checkpoint: `Run.newest` is then what is newest."""
    if checkpoint == run.final:
        kept = run.checkpoint(step)
        if checkpoint.statistics.is_file():
            checkpoint.statistics.replace(kept.statistics)
        checkpoint.model.replace(kept.model)


def load_model(
    run: Run, checkpoint: Checkpoint, device: str, env: "VecEnv | None" = None, trust: bool = False
) -> "BaseAlgorithm":
    """The model of a run.

    :param env: to go on training in, exactly where the model was saved if it is one of ours; not needed to play
    :param trust: run the code that is in the file
    :raises UsageError: when the file cannot be read, or not without trust
    """
    from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
    from sb3_trpo.saving.model import read_model
    from sb3_trpo.zoo.algorithms import algorithm_class

    algorithm = algorithm_class(run.algo)
    try:
        if issubclass(algorithm, TrustRegionAlgorithm):
            return algorithm.load(checkpoint.model, env=env, device=device, force_reset=False, trust=trust)
        with checkpoint.model.open("rb") as stream:  # Stable-Baselines3 unpickles nothing that it is given
            file = read_model(stream)
            values = file.decoded(file.attributes, trust)
            return algorithm.load(stream, env=env, device=device, custom_objects=values)
    except Exception as error:  # whatever Stable-Baselines3 raises
        said = " ".join(str(error).split()).replace("Pass trust=True", "Say --trust, or pass trust=True,")
        raise UsageError(f"model {checkpoint.model} cannot be read: {said}") from error


def rewind_logs(run: Run, model: "TrustRegionAlgorithm") -> None:
    """Cut off what was logged after the checkpoint that ``model`` was loaded from: it will be logged again."""
    for index, size in enumerate(model.monitor_sizes):
        file = run.folder / f"{index}.monitor.csv"
        if size is not None and file.is_file() and file.stat().st_size > size:
            os.truncate(file, size)
    for file in run.folder.glob("progress*.csv"):
        with file.open(newline="", encoding="utf-8") as stream:
            header, *rows = [*csv.reader(stream)] or [[]]
        if "time/total_timesteps" not in header:
            continue
        column = header.index("time/total_timesteps")
        kept = [row for row in rows if len(row) == len(header) and float(row[column] or 0) <= model.num_timesteps]
        if len(kept) < len(rows):
            with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream, lineterminator="\n").writerows([header, *kept])


def load_statistics(env: "VecEnv", checkpoint: Checkpoint, trust: bool = False) -> None:
    """Give an environment the observation and reward statistics of a checkpoint.

    :param trust: run the code that is in the file
    :raises UsageError: when the environment is normalised and the file is not there or cannot be read
    """
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from sb3_trpo.saving.normalizer import load_normalizer

    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return
    try:
        saved = load_normalizer(checkpoint.statistics, normalizer.venv, trust)
    except (OSError, ValueError) as error:
        raise UsageError(f"observation statistics {checkpoint.statistics} cannot be read: {error}") from error
    normalizer.obs_rms, normalizer.ret_rms, normalizer.returns = saved.obs_rms, saved.ret_rms, saved.returns


def _dictionary(file: Path) -> dict[str, Any]:
    contents = read_yaml(file)
    if not isinstance(contents, dict):
        raise UsageError(f"{file} must hold 'key: value' pairs")
    return contents


def _last_number(parent: Path, env_id: str) -> int:
    pattern = re.compile(re.escape(file_name(env_id)) + r"_\d+")
    return max((_number(path.name) for path in parent.iterdir() if pattern.fullmatch(path.name)), default=0)


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0
