"""A trained model at play: watched, filmed, and measured."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.callbacks.episodes import predictor
from sb3_trpo.evaluation.statistics import aggregate_iqm, stratified_bootstrap
from sb3_trpo.zoo.errors import UsageError, whole
from sb3_trpo.zoo.evaluations import evaluate
from sb3_trpo.zoo.files import replacing
from sb3_trpo.zoo.grid import MAX_SEED
from sb3_trpo.zoo.masks import check_masks
from sb3_trpo.zoo.models import make_evaluation_env
from sb3_trpo.zoo.runs import Checkpoint, Run, find_run, load_model, load_statistics

VIDEO_SUFFIXES = (".mp4", ".gif", ".webm")


class RunScore(NamedTuple):
    """Returns of ``n_episodes`` of a run's model: mean, standard deviation over episodes, interquartile mean with the
    ends of its 95% bootstrap interval (NaN for a single episode), and mean length of the episodes.
    """

    run: str
    model: str
    n_episodes: int
    deterministic: bool
    mean: float
    std: float
    iqm: float
    iqm_low: float
    iqm_high: float
    length: float

    def as_json(self) -> str:
        """One JSON object; null where there is no interval."""
        numbers = {key: None if value != value else value for key, value in self._asdict().items()}
        return json.dumps(numbers)


def evaluate_run(
    where: str | Path,
    n_episodes: int = 100,
    *,
    log_folder: str | Path = "runs",
    best: bool = False,
    averaged: bool = False,
    stochastic: bool = False,
    seed: int = 20_000,
    device: str = "auto",
    trust: bool = False,
) -> RunScore:
    """Play ``n_episodes`` with a run's model.

    :param where: run folder, or environment id for its latest run
    :param best: the model of the best evaluation instead of the last one, with the statistics it had then
    :param averaged: the average of the policies that the callback `AveragedPolicy` kept, as the training ended
    :param stochastic: sample actions
    :param seed: of the initial states
    :param trust: run the code that is in the files of the run
    :raises UsageError: when there is no such run or model
    """
    n_episodes, seed = whole("episodes", n_episodes, 1), whole("seed", seed, 0, MAX_SEED)
    run = find_run(where, log_folder)
    checkpoint = _checkpoint(run, best, averaged)
    with _at_play(run, checkpoint, n_episodes, device, trust) as (model, env):
        played = evaluate(model, env, n_episodes, seed, deterministic=not stochastic)
    middle = stratified_bootstrap(played.returns, aggregate_iqm)
    return RunScore(
        str(run.folder),
        checkpoint.model.name,
        n_episodes,
        not stochastic,
        played.mean,
        float(played.returns.std(ddof=1)) if n_episodes > 1 else 0.0,
        float(middle.value),
        float(middle.low),
        float(middle.high),
        float(played.lengths.mean()),
    )


def enjoy(
    where: str | Path,
    *,
    log_folder: str | Path = "runs",
    video: str | Path | None = None,
    n_episodes: int = 1,
    best: bool = False,
    averaged: bool = False,
    stochastic: bool = False,
    render: bool = True,
    seed: int = 20_000,
    device: str = "auto",
    trust: bool = False,
) -> NDArray[np.float64]:
    """Show ``n_episodes`` of a run's model in a window, or film them.

    :param video: file to write instead of opening a window: mp4, gif or webm
    :param render: False to play without looking
    :param trust: run the code that is in the files of the run
    :return: returns (n_episodes,) of the episodes
    :raises UsageError: when there is no such run, or nothing can be drawn
    """
    if video is not None and Path(video).suffix not in VIDEO_SUFFIXES:
        raise UsageError(f"video={str(video)!r} must end in {', '.join(VIDEO_SUFFIXES)}")
    n_episodes, seed = whole("episodes", n_episodes, 1), whole("seed", seed, 0, MAX_SEED)
    run = find_run(where, log_folder)
    mode = None if not render and video is None else "human" if video is None else "rgb_array"
    checkpoint = _checkpoint(run, best, averaged)
    returns: list[float] = []
    with _at_play(run, checkpoint, 1, device, trust, mode) as (model, env), _film(video, env) as shoot:
        check_masks(type(model), env)
        player = predictor(model, env)
        env.seed(seed)
        observation, state, start = env.reset(), None, np.ones(1, bool)
        while len(returns) < n_episodes:
            shoot()
            action, state = player.predict(observation, state, start, deterministic=not stochastic)  # type: ignore[arg-type]
            observation, _, start, infos = env.step(action)
            if start[0]:
                returns.append(float(infos[0]["episode"]["r"]))
    return np.array(returns)


def _checkpoint(run: Run, best: bool, averaged: bool) -> Checkpoint:
    if best and averaged:
        raise UsageError("best and averaged are two models of a run: ask for one")
    checkpoint = run.best if best else run.averaged if averaged else run.newest
    if not checkpoint.model.is_file():
        why = "no evaluation was made" if best else "it was trained without callback=AveragedPolicy, or has not ended"
        raise UsageError(f"run {run.folder} has no {checkpoint.model.name}: {why}")
    return checkpoint


@contextlib.contextmanager
def _at_play(
    run: Run, checkpoint: Checkpoint, n_episodes: int, device: str, trust: bool, render_mode: str | None = None
) -> Iterator[tuple[BaseAlgorithm, VecEnv]]:
    """The model and an environment for it, observations scaled as they were in training."""
    options = {} if render_mode is None else {"render_mode": render_mode}
    try:
        env = make_evaluation_env(run.env_id, run.hyperparams, n_episodes, options)
    except (ImportError, TypeError, RuntimeError) as error:
        raise UsageError(f"{run.env_id} cannot be drawn: {' '.join(str(error).split())}") from error
    with contextlib.closing(env):
        load_statistics(env, checkpoint, trust)
        yield load_model(run, checkpoint, device, trust=trust), env


@contextlib.contextmanager
def _film(video: str | Path | None, env: VecEnv) -> Iterator[Any]:
    """A function that takes a picture; the film is there when the last one is taken, whole or not at all."""
    if video is None:
        yield lambda: None
        return
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise UsageError(f"video={str(video)!r} needs more: pip install 'sb3-trpo[video]'") from error
    fps = env.get_attr("metadata")[0].get("render_fps", 30)
    with replacing(Path(video)) as temporary:
        # Codecs want sides that are even; imageio's default would scale them to multiples of 16.
        film = {"fps": fps, "macro_block_size": 2}
        options: dict[str, Any] = {"duration": 1000 / fps} if temporary.suffix == ".gif" else film
        writer: Any
        with imageio.get_writer(temporary, **options) as writer:
            yield lambda: writer.append_data(_picture(env))


def _picture(env: VecEnv) -> NDArray[np.uint8]:
    try:
        picture = env.render("rgb_array")
    except Exception as error:  # whatever the drawing library raises
        raise UsageError(
            f"the environment cannot be drawn: {error}; headless machines may need MUJOCO_GL=egl"
        ) from error
    if picture is None:
        raise UsageError("the environment draws nothing: it has no rgb_array render mode")
    return picture
