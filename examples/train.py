"""Train TRPO on an environment, evaluate it, and leave model, logs and a learning curve in a folder of their own.

    python examples/train.py                                   # HalfCheetah-v5
    python examples/train.py --env Hopper-v5 --steps 2e5 --seed 1

The settings come from hyperparams/trpo.yml: the entry of the environment, or ``default``.
"""

import argparse
import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
import yaml
from rich.console import Console
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.utils import LinearSchedule, get_latest_run_id
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo import TRPO

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT_KEYS = ("n_timesteps", "n_envs", "normalize", "policy")
console = Console(soft_wrap=True)


def hyperparams(env_id: str) -> dict[str, Any]:
    """The entry of ``env_id`` in hyperparams/trpo.yml, or the default one."""
    entries = yaml.safe_load((ROOT / "hyperparams" / "trpo.yml").read_text())
    return dict(entries.get(env_id, entries["default"]))


def settings(env_id: str) -> dict[str, Any]:
    """Constructor arguments of `TRPO` for ``env_id``; ``lin_X`` is a schedule falling linearly from X to zero."""

    def value(text: Any) -> Any:
        is_linear = isinstance(text, str) and text.startswith("lin_")
        return LinearSchedule(float(text.removeprefix("lin_")), 0.0, 1.0) if is_linear else text

    return {key: value(entry) for key, entry in hyperparams(env_id).items() if key not in ENVIRONMENT_KEYS}


def make_env(env_id: str, seed: int, monitor_folder: Path | None = None) -> VecEnv:
    """The vectorised environment that the settings ask for; episodes are logged in ``monitor_folder``."""
    chosen = hyperparams(env_id)
    logs = None if monitor_folder is None else str(monitor_folder)
    env: VecEnv = make_vec_env(env_id, chosen["n_envs"], seed=seed, monitor_dir=logs)
    if chosen.get("normalize"):
        env = VecNormalize(env, gamma=chosen.get("gamma", 0.99))
    return env


def evaluate(model: TRPO, env_id: str, n_episodes: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the returns of ``n_episodes`` played without exploration noise."""
    env: VecEnv = make_vec_env(env_id, 1, seed=seed)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = normalizer.obs_rms
    mean, std = evaluate_policy(model, env, n_episodes, deterministic=True)
    env.close()
    return float(mean), float(std)


def plot(folder: Path, title: str) -> Path | None:
    """Draw the returns of the training episodes; None when no episode ended."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from sb3_trpo.evaluation.curves import plot_run

    episodes = load_results(str(folder))
    if episodes.empty:
        return None
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    plot_run(axes, episodes["l"].cumsum(), episodes["r"])
    axes.set_title(title)
    figure.savefig(folder / "learning_curve.png", dpi=120)
    plt.close(figure)
    return folder / "learning_curve.png"


def new_run_folder(parent: Path, env_id: str) -> Path:
    """``parent/ENV_1``, ``ENV_2``, ...: the next one, of our own even when several trainings start at once."""
    while True:
        folder = parent / f"{env_id}_{get_latest_run_id(str(parent), env_id) + 1}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def hush_mujoco() -> None:
    """MuJoCo repeats a deprecation of Gymnasium's models for every environment; what tells of trouble is shown."""
    try:
        import mujoco
    except ImportError:
        return
    mujoco.set_mju_user_warning(lambda text: None if "settotalmass" in text else warnings.warn(text, stacklevel=2))


def main() -> int:
    """Parse the command line, train, evaluate, and say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--env", default="HalfCheetah-v5", help="id of a registered environment (default HalfCheetah-v5)"
    )
    parser.add_argument("--steps", type=float, help="environment steps (default: from hyperparams/trpo.yml)")
    parser.add_argument("--seed", type=int, default=0, help="of all random generators (default 0)")
    parser.add_argument("--eval-episodes", type=int, default=20, help="episodes of the evaluation (default 20)")
    parser.add_argument("--logs", type=Path, default=Path("runs"), help="where run folders are made (default runs)")
    arguments = parser.parse_args()
    try:
        gym.spec(arguments.env)
    except gym.error.Error as error:
        parser.error(f"--env {arguments.env}: {error}")
    steps = arguments.steps if arguments.steps is not None else hyperparams(arguments.env)["n_timesteps"]
    if not steps >= 1 or steps != int(steps):
        parser.error(f"--steps {steps}: must be a whole number >= 1")
    hush_mujoco()
    th.set_num_threads(1)  # networks of this size are slower on more

    folder = new_run_folder(arguments.logs / "trpo", arguments.env)
    env = make_env(arguments.env, arguments.seed, folder)
    model = TRPO(
        hyperparams(arguments.env)["policy"], env, seed=arguments.seed, device="cpu", **settings(arguments.env)
    )
    model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    console.print(
        f"TRPO on [bold]{arguments.env}[/bold], {int(steps):,} steps, seed {arguments.seed}; logs in {folder}"
    )
    try:
        model.learn(steps, progress_bar=True)
    except KeyboardInterrupt:
        console.print(f"interrupted after {model.num_timesteps:,} steps; what was learned is kept")

    model.save(folder / "model")
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        normalizer.save(str(folder / "vecnormalize.pkl"))
    mean, std = evaluate(model, arguments.env, arguments.eval_episodes, seed=10_000 + arguments.seed)
    env.close()
    curve = plot(folder, f"TRPO on {arguments.env}, deterministic evaluation {mean:.0f} ± {std:.0f}")
    console.print(
        f"deterministic return over {arguments.eval_episodes} episodes: [bold green]{mean:.1f} ± {std:.1f}[/bold green]"
    )
    console.print(f"model          {folder / 'model.zip'}", highlight=False)
    console.print(f"log            {folder / 'progress.csv'}", highlight=False)
    console.print(f"TensorBoard    tensorboard --logdir {arguments.logs}", highlight=False)
    console.print(f"learning curve {curve or 'not drawn: no episode ended'}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
