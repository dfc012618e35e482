"""Training runs with all that is around them: a folder, logs, evaluations, checkpoints, and going on after a stop."""

import importlib.util
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import Timeout
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger, make_output_format

from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.subproc import WorkerError
from sb3_trpo.callbacks.signals import SIGNALS, EndedBySignals, Interrupted, SignalWatch
from sb3_trpo.zoo import grid
from sb3_trpo.zoo.callbacks import Saver, TrainingBar, read_evaluations
from sb3_trpo.zoo.console import print_line, stderr
from sb3_trpo.zoo.errors import UsageError, did_you_mean, whole
from sb3_trpo.zoo.evaluations import Evaluation, PeriodicEvaluation
from sb3_trpo.zoo.grid import MAX_SEED, config_hash
from sb3_trpo.zoo.hyperparams import Hyperparams, dictionary, load_hyperparams
from sb3_trpo.zoo.models import VEC_ENVS, check_env, make_env, make_evaluation_env, make_model
from sb3_trpo.zoo.named_callbacks import kept_average, named_callbacks
from sb3_trpo.zoo.runs import (
    Run,
    find_run,
    keep_as_checkpoint,
    load_model,
    load_statistics,
    new_run,
    rewind_logs,
    save_checkpoint,
    write_settings,
)
from sb3_trpo.zoo.scored_run import to_score
from sb3_trpo.zoo.training import EVALUATION_SEED

DEFAULTS: dict[str, Any] = {
    "seed": 0, "vec_env": "dummy", "eval_freq": 0, "eval_episodes": 20, "save_freq": 0,
    "tensorboard": False, "wandb_project": None, "device": "auto",
}  # fmt: skip
"""What a run folder of RL Zoo does not say, when it is gone on with."""


class Trained(NamedTuple):
    """``run``, the folder; ``evaluation``, the last one, None before the first; ``model``; and the ``exit_code`` of a
    process that ends now: 0, 130 after Ctrl-C, 143 after another signal.
    """

    run: Run
    evaluation: Evaluation | None
    model: BaseAlgorithm
    exit_code: int


def train(
    env_id: str,
    algo: str = "trpo",
    *,
    hyperparams: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    n_timesteps: float | None = None,
    seed: int | None = None,
    vec_env: str = "dummy",
    eval_freq: float | None = None,
    n_eval_episodes: int = 20,
    save_freq: float | None = None,
    log_folder: str | Path = "runs",
    tensorboard: bool = False,
    wandb_project: str | None = None,
    device: str = "auto",
    show_progress: bool = False,
) -> Trained:
    """Train a model from hyperparameters and leave everything in a run folder.

    Ctrl-C, SIGTERM and SIGUSR1 end the training between two steps, and a second of them at once. What was learned is
    kept, and `resume` goes on from the start of the rollout that was ended, bit for bit.

    :param env_id: id of a registered environment
    :param algo: short name or ``module:Class``, see `sb3_trpo.zoo.algorithms`
    :param hyperparams: a file in RL Zoo's format, the shipped one by default
    :param overrides: hyperparameters to set on top
    :param n_timesteps: environment steps, those of the hyperparameters by default
    :param seed: of everything, drawn and written down when None
    :param vec_env: ``"dummy"`` or ``"subproc"``
    :param eval_freq: steps between evaluations, a twentieth of the training by default, 0 for one at the end
    :param n_eval_episodes: episodes of each, without exploration noise
    :param save_freq: steps between checkpoints, a fifth of the training by default, 0 for none
    :param log_folder: where run folders are made
    :param tensorboard: log for TensorBoard, too
    :param wandb_project: log to this project of Weights & Biases, too
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    :param show_progress: show a bar and say where things are
    :raises UsageError: for anything that cannot be used, before a folder is made
    """
    check_env(env_id)
    if vec_env not in VEC_ENVS:
        raise UsageError(f"vec_env={vec_env!r} is unknown{did_you_mean(vec_env, VEC_ENVS)}")
    chosen = load_hyperparams(algo, env_id, hyperparams, {**(overrides or {}), **_steps(n_timesteps)})
    if "n_timesteps" not in chosen:
        raise UsageError(f"the hyperparameters of {env_id} have no n_timesteps: give n_timesteps")
    total = whole("n_timesteps", chosen["n_timesteps"], 1)
    drawn = int(np.random.SeedSequence().generate_state(1)[0] % 2**31)
    arguments: dict[str, Any] = {
        "seed": drawn if seed is None else whole("seed", seed, 0, MAX_SEED),
        "vec_env": vec_env,
        "eval_freq": max(total // 20, 1) if eval_freq is None else whole("eval_freq", eval_freq, 0),
        "eval_episodes": whole("n_eval_episodes", n_eval_episodes, 1),
        "save_freq": max(total // 5, 1) if save_freq is None else whole("save_freq", save_freq, 0),
        "tensorboard": tensorboard,
        "wandb_project": wandb_project,
        "device": device,
        "env_kwargs": None,  # RL Zoo looks for it; those of the hyperparameters are in config.yml
    }
    seed = arguments["seed"]
    _check_libraries(arguments)
    # Built once without a folder: what cannot be built leaves none behind.
    make_model(algo, env_id, chosen, seed=seed, device=device).get_env().close()  # type: ignore[union-attr]
    with named_callbacks(env_id, chosen):
        pass
    run = new_run(Path(log_folder), algo, env_id)
    with _alone(run):
        write_settings(run, chosen, arguments)
        env = make_env(env_id, chosen, seed=seed, vec_env=vec_env, monitor_folder=run.folder)
        with closing(env):
            model = make_model(algo, env_id, chosen, seed=seed, device=device, env=env)
            return _learn(run, model, chosen, arguments, total, show_progress)


def resume(
    where: str | Path, n_timesteps: float | None = None, show_progress: bool = False, trust: bool = False
) -> Trained:
    """Go on with a run that was stopped, be it in its last evaluation, or train a finished one for longer.

    A run of ours goes on as if it had not been stopped, down to the last bit, wherever the state of the environments
    can be saved; where it cannot, and with other algorithms, new episodes begin, of which a warning tells.

    Schedules are functions of the share of the training that is left. They go on where they were if ``n_timesteps``
    stays; for a longer training they are those of the whole new length, and jump to where it has them.

    :param where: run folder, or environment id for its latest run
    :param n_timesteps: environment steps in all, those that were asked for by default
    :param trust: run the code that is in the files of the run
    :raises UsageError: when there is no such run, it has no model, or nothing is left to do
    """
    run = find_run(where)
    chosen, arguments = run.hyperparams, {**DEFAULTS, **run.arguments}
    chosen.update(_steps(n_timesteps))
    total = whole("n_timesteps", chosen.get("n_timesteps"), 1)
    with ExitStack() as stack:
        stack.enter_context(_alone(run))
        newest = run.newest
        monitor = {**dictionary(chosen, "monitor_kwargs"), "override_existing": False}
        env = make_env(
            run.env_id, {**chosen, "monitor_kwargs": monitor}, vec_env=arguments["vec_env"], monitor_folder=run.folder
        )
        stack.enter_context(closing(env))
        load_statistics(env, newest, trust)
        model = load_model(run, newest, arguments["device"], env, trust)
        is_evaluated = model.num_timesteps in [step for step, *_ in read_evaluations(run)[0]]
        if model.num_timesteps >= total and is_evaluated:
            raise UsageError(
                f"run {run.folder} has had its {model.num_timesteps:,} steps: give a larger n_timesteps to go on"
            )
        if isinstance(model, TrustRegionAlgorithm):
            rewind_logs(run, model)
        else:
            env.seed(arguments["seed"] + model.num_timesteps)
        keep_as_checkpoint(run, newest, model.num_timesteps)
        write_settings(run, chosen, arguments)
        return _learn(run, model, chosen, arguments, total, show_progress)


def _learn(
    run: Run, model: BaseAlgorithm, hyperparams: Hyperparams, arguments: Mapping[str, Any], total: int, show: bool
) -> Trained:
    """Train up to ``total`` steps and save; a signal ends it, and what was learned is kept."""
    n_episodes, evaluation_seed = arguments["eval_episodes"], EVALUATION_SEED + arguments["seed"]
    evaluated = (arguments["eval_freq"], n_episodes)
    scored = grid.Run(
        run.env_id, run.algo, run.algo, hyperparams, arguments["seed"], total, *evaluated,
        config_hash(run.algo, hyperparams, total, *evaluated),
    )  # fmt: skip
    in_lines = show and not stderr.is_terminal
    if show:
        stderr.print(f"{run.algo} on {run.env_id}, seed {arguments['seed']}, in {run.folder}", markup=False)
    exit_code = 0
    with ExitStack() as stack:
        named = stack.enter_context(named_callbacks(run.env_id, hyperparams))
        average = kept_average(named)
        say = print_line if in_lines else None
        saver = Saver(run, partial(to_score, scored), arguments["save_freq"], say, average)
        if model.num_timesteps > 0:
            saver.go_on_from(model.num_timesteps)
        watch = stack.enter_context(SignalWatch((signal.SIGINT, *SIGNALS)))
        evaluation_env = stack.enter_context(closing(make_evaluation_env(run.env_id, hyperparams, n_episodes)))
        tracker = _wandb(run, hyperparams, arguments)
        if tracker is not None:
            stack.callback(tracker.finish)
        logger = _logger(run.folder, arguments["tensorboard"] or tracker is not None)
        stack.callback(logger.close)
        model.set_logger(logger)
        evaluation = PeriodicEvaluation(
            evaluation_env, arguments["eval_freq"], n_episodes, evaluation_seed, saver.on_evaluation,
            last=saver.last_evaluated, poll=watch.poll, averaged=average,
        )  # fmt: skip
        bar = stack.enter_context(TrainingBar(f"{run.algo} {run.env_id}", total, disable=not show or in_lines))
        try:
            model.learn(
                max(total - model.num_timesteps, 0),  # none where only the last evaluation is missing
                callback=[*named, EndedBySignals(watch), evaluation, saver, bar],
                reset_num_timesteps=model.num_timesteps == 0,
            )
        except KeyboardInterrupt as interrupt:
            exit_code = interrupt.exit_code if isinstance(interrupt, Interrupted) else 130
        except WorkerError as error:
            raise UsageError(f"training on {run.env_id} has ended: {error}") from error
        finally:
            watch.raises_at_once = False
            save_checkpoint(model, run.final)
    return Trained(run, evaluation.evaluations[-1] if evaluation.evaluations else None, model, exit_code)


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Hold the run's lock.

    :raises UsageError: when another process trains it
    """
    lock = run.lock()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(f"run {run.folder} is being trained by another process") from None
    try:
        yield
    finally:
        lock.release()


def _steps(n_timesteps: float | None) -> dict[str, float]:
    return {} if n_timesteps is None else {"n_timesteps": n_timesteps}


def _check_libraries(arguments: Mapping[str, Any]) -> None:
    """Refuse a log whose library is missing."""
    needed = {
        "tensorboard": ("tensorboard", "track", bool(arguments["tensorboard"])),
        "wandb_project": ("wandb", "wandb", arguments["wandb_project"] is not None),
    }
    for name, (module, extra, is_wanted) in needed.items():
        if is_wanted and importlib.util.find_spec(module) is None:
            raise UsageError(f"{name}={arguments[name]!r} needs more: pip install 'sb3-trpo[{extra}]'")


def _logger(folder: Path, tensorboard: bool) -> Logger:
    """A table in the folder, ``progress.csv`` and ``progress_2.csv``, ... of a run resumed, and TensorBoard's."""
    number = len(list(folder.glob("progress*.csv"))) + 1
    formats = [make_output_format("csv", str(folder), "" if number == 1 else f"_{number}")]
    if tensorboard:
        formats.append(make_output_format("tensorboard", str(folder)))
    return Logger(str(folder), formats)


def _wandb(run: Run, hyperparams: Hyperparams, arguments: Mapping[str, Any]) -> Any:
    """A run of Weights & Biases, fed by TensorBoard's log; None where it is not asked for."""
    project = arguments["wandb_project"]
    if project is None:
        return None
    import wandb

    config = {"algo": run.algo, "env": run.env_id, "seed": arguments["seed"], **hyperparams}
    name = f"{run.algo}-{run.folder.name}"
    # Beside the run folder and not in it: it copies the folder of TensorBoard's log, and would copy itself.
    return wandb.init(project=project, name=name, config=config, dir=run.folder.parent.parent, sync_tensorboard=True)
