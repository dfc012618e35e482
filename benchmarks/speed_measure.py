"""How `benchmarks.speed` obtains its figures.

- ``learn()``: wall-clock of `learn` on a model made before the clock starts, per environment step. All contestants
  have their defaults, the same environments (`make_vec_env`: `DummyVecEnv` and `Monitor`) and the same ``n_steps``.
- environment: the actions that the contestant takes under this seed, recorded by a callback in a run that is not
  timed, are played again in fresh environments with the same seed, which pass through the same states; only a loop of
  `VecEnv.step` is timed, once before the timed training and once after it. Resets are part of it, as in training.
- rollout: the time in `collect_rollouts`, whose bound method is wrapped for the one model (one more call per rollout),
  less that of the environment alone. It can be negative, as a contestant need not step the environments by
  `VecEnv.step`.
- actor, critic: ours logs ``time/actor_seconds`` and ``time/critic_seconds``. sb3-contrib's `train` asks the rollout
  buffer for minibatches when its actor is finished, so the first such call, seen by a wrapper of the bound method,
  is where its time is split in two. PPO trains both at once. The rest is logging and setting up.
- `train` alone: updates of equal weights on equal buffers. Weights, optimiser, buffer and random generators are set
  back before each, so that each does the same work. Conjugate gradient steps are logged by ours, and counted by
  sb3-contrib's Fisher-vector products (one each, and two more for its random start and its step length).
- memory: in a process of its own, what the peak of the resident memory during `train` is above the resident memory
  before it. The kernel's mark of the peak is set back in between, and glibc is told to return freed arrays at once:
  what fragmentation keeps differs by half from process to process and would hide what the update needs.
- scaling: one `train` as the rows of the rollout or the parameters of the actor (the critic has about as many) grow.

A measurement during which the process waited for a processor, as the difference of wall-clock and processor time
tells, is made again, a few times at most, and the one that waited least counts; this holds for every contestant.

The rollout buffers of the last three hold 2048 real steps of HalfCheetah, repeated to the length that is asked for,
with the values and log-probabilities of the policy at hand.
"""

import gc
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sb3_contrib
import torch as th
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

import sb3_trpo
from benchmarks.speed_plot import MEMORY_ROWS, MEMORY_WIDTH, ROLLOUT, Measurement
from sb3_trpo.zoo.training import hush_mujoco

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {
    "sb3_trpo": sb3_trpo.TRPO,
    "sb3_contrib": sb3_contrib.TRPO,
    "ppo": PPO,
}
TRUST_REGION = ("sb3_trpo", "sb3_contrib")
N_ROLLOUTS = 3
N_UPDATES = 3
SCALING_ROWS = tuple(1024 * 2**k for k in range(7))
SCALING_WIDTHS = (64, 128, 256, 512, 1024, 2240)
SCALING_LIMIT_S = {"sb3_trpo": 120.0, "sb3_contrib": 20.0}
"""Sizes whose update would take longer, by the one before, are left out."""
ENOUGH_S = 5.0
"""An update that took longer to warm up is not repeated."""
MOST_WAITING, MOST_ATTEMPTS = 0.05, 3
"""Share of the wall-clock without a processor above which a measurement is made again, and how often at most."""
Figures = dict[str, float]


class Task(NamedTuple):
    """What is learned in a row: ``n_steps`` of each of ``n_envs`` environments make a rollout."""

    env_id: str
    n_envs: int = 1
    n_steps: int = ROLLOUT


TASKS = {
    "cartpole": Task("CartPole-v1"),
    "halfcheetah": Task("HalfCheetah-v5"),
    "hopper": Task("Hopper-v5"),
    "halfcheetah8": Task("HalfCheetah-v5", 8, ROLLOUT // 8),
}
WIDTHS = {"train64": 64, "train256": 256}


def measure(row: str, runs: int, quick: bool) -> list[Measurement]:
    """All measurements of one row."""
    if row in TASKS:
        return list(measure_learn(row, runs, 1 if quick else N_ROLLOUTS))
    if row in WIDTHS:
        return list(measure_train(row, runs, 1 if quick else N_UPDATES))
    if row == "memory":
        return list(measure_memory(runs))
    return list(measure_scaling(runs, quick))


def prepare_process() -> None:
    """One thread for torch, and no repeated warnings of MuJoCo."""
    th.set_num_threads(1)
    hush_mujoco()


def conditions() -> dict[str, Any]:
    """Versions, processor and load, to be kept beside the figures."""
    packages = ("torch", "numpy", "stable_baselines3", "sb3_contrib", "gymnasium", "mujoco")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "sb3_trpo": sb3_trpo.__version__,
        **{package: version(package) for package in packages},
    }


def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def say(row: str, name: str, text: str) -> None:
    """One line of progress."""
    print(f"{row:12} {name:12} {text}", file=sys.stderr, flush=True)


def taking_turns(names: tuple[str, ...], repetition: int) -> tuple[str, ...]:
    """Forwards and backwards, so that nobody is always first."""
    return names if repetition % 2 == 0 else names[::-1]


def undisturbed(measured: Callable[[], Figures]) -> Figures:
    """What ``measured`` returns; it is called again while the process had to wait for a processor in between."""
    attempts: list[tuple[float, Figures]] = []
    while len(attempts) < MOST_ATTEMPTS and min((waited for waited, _ in attempts), default=1.0) > MOST_WAITING:
        wall, busy = time.perf_counter(), time.process_time()
        figures = measured()
        attempts.append((1.0 - (time.process_time() - busy) / (time.perf_counter() - wall), figures))
    return min(attempts, key=lambda attempt: attempt[0])[1]


class Watch:
    """The seconds that ``model`` spends in rollouts, updates, actor and critic, added up from outside."""

    def __init__(self, name: str, model: OnPolicyAlgorithm):
        self.seconds: Counter[str] = Counter()
        self.cg_steps = np.nan
        self._name, self._model = name, model
        self._actor_done: float | None = None
        self._products = 0
        self._collect_rollouts, self._train = model.collect_rollouts, model.train
        model.collect_rollouts, model.train = self._timed_collect_rollouts, self._timed_train
        if name == "sb3_contrib":
            self._get, self._product = model.rollout_buffer.get, model.hessian_vector_product
            model.rollout_buffer.get, model.hessian_vector_product = self._noted_get, self._counted_product

    def _timed_collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        started = time.perf_counter()
        finished = self._collect_rollouts(*args, **kwargs)
        self.seconds.update(rollout=time.perf_counter() - started)
        return finished

    def _timed_train(self) -> None:
        self._actor_done, self._products = None, 0
        started = time.perf_counter()
        self._train()
        done = time.perf_counter()
        self.seconds.update(update=done - started)
        if self._name == "sb3_trpo":
            logged = dict(self._model.logger.name_to_value)  # a plain one, which refuses names it does not know
            self.seconds.update(actor=logged["time/actor_seconds"], critic=logged["time/critic_seconds"])
            self.cg_steps = logged.get("train/cg_steps", np.nan)
        elif self._name == "sb3_contrib":
            self.seconds.update(actor=self._actor_done - started, critic=done - self._actor_done)
            self.cg_steps = self._products - 2

    def _noted_get(self, batch_size: int | None = None) -> Any:
        if batch_size is not None and self._actor_done is None:
            self._actor_done = time.perf_counter()
        return self._get(batch_size)

    def _counted_product(self, *args: Any, **kwargs: Any) -> th.Tensor:
        self._products += 1
        return self._product(*args, **kwargs)


class ActionRecorder(BaseCallback):
    """Keeps what the environment was given."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[NDArray[Any]] = []

    def _on_step(self) -> bool:
        self.actions.append(np.array(self.locals["clipped_actions"]))
        return True


def measure_learn(row: str, runs: int, n_rollouts: int) -> Iterator[Measurement]:
    """`learn` and its parts, in microseconds per environment step."""
    names = tuple(ALGORITHMS)
    for name in names:
        learn_once(row, name, runs, 1)
    for repetition in range(runs):
        for name in taking_turns(names, repetition):
            seconds = undisturbed(partial(learn_once, row, name, repetition, n_rollouts))
            each = {part: value / (n_rollouts * ROLLOUT) * 1e6 for part, value in seconds.items()}
            say(row, name, f"{repetition + 1}/{runs}: {', '.join(f'{k} {v:.0f}' for k, v in each.items())} us per step")
            yield from (Measurement(row, name, repetition, f"{part}_us", value) for part, value in each.items())


def learn_once(row: str, name: str, seed: int, n_rollouts: int) -> Figures:
    """The seconds of one training and of its parts."""
    task, total_steps = TASKS[row], n_rollouts * ROLLOUT
    recorded, recorder = make_learner(task, name, seed), ActionRecorder()
    recorded.learn(total_steps, callback=recorder)
    recorded.env.close()
    before, end = replay(task, seed, recorder.actions)

    model = make_learner(task, name, seed)
    watch = Watch(name, model)
    gc.collect()
    started = time.perf_counter()
    model.learn(total_steps)
    learn = time.perf_counter() - started
    model.env.close()

    after, _ = replay(task, seed, recorder.actions)
    if not np.array_equal(end, model._last_obs):
        say(row, name, f"warning: the actions replayed for seed {seed} do not lead where the timed run ended")
    environment, parts = (before + after) / 2, watch.seconds
    rest = learn - parts["rollout"] - parts["update"]
    return {
        "learn": learn,
        "environment": environment,
        **parts,
        "rollout": parts["rollout"] - environment,
        "rest": rest,
    }


def make_learner(task: Task, name: str, seed: int) -> OnPolicyAlgorithm:
    """The contestant with its defaults."""
    env = make_vec_env(task.env_id, task.n_envs, seed=seed)
    return ALGORITHMS[name]("MlpPolicy", env, n_steps=task.n_steps, seed=seed, device="cpu")


def replay(task: Task, seed: int, actions: list[NDArray[Any]]) -> tuple[float, Any]:
    """Seconds that the environment alone takes for these actions, and the observations where they end."""
    env: VecEnv = make_vec_env(task.env_id, task.n_envs, seed=seed)
    observations = env.reset()
    gc.collect()
    started = time.perf_counter()
    for action in actions:
        observations, *_ = env.step(action)
    seconds = time.perf_counter() - started
    env.close()
    return seconds, observations


class Experience(NamedTuple):
    """A rollout of HalfCheetah, one row per step."""

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    episode_starts: NDArray[np.float32]


def collect_experience(seed: int) -> Experience:
    """Steps of an untrained policy, by Stable-Baselines3's own loop."""
    model = PPO("MlpPolicy", make_vec_env("HalfCheetah-v5", seed=seed), n_steps=ROLLOUT, seed=seed, device="cpu")
    _, callback = model._setup_learn(ROLLOUT)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, ROLLOUT)
    model.env.close()
    return Experience(*(getattr(model.rollout_buffer, field) for field in Experience._fields))


class Updater:
    """A model with a full rollout buffer, whose update can be done again from the same state.

    :param like: one to take the weights of
    """

    def __init__(
        self, name: str, experience: Experience, n_rows: int, width: int, seed: int, like: "Updater | None" = None
    ):
        self.model = ALGORITHMS[name](
            "MlpPolicy",
            make_vec_env("HalfCheetah-v5", seed=seed),
            n_steps=n_rows,
            seed=seed,
            device="cpu",
            policy_kwargs={"net_arch": [width, width]},
        )
        self.seed = seed
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        policy, buffer = self.model.policy, self.model.rollout_buffer
        if like is not None:
            policy.load_state_dict(like.model.policy.state_dict())
        fill(self.model, experience)
        self._watch = Watch(name, self.model)
        self._buffer = {key: array.copy() for key, array in vars(buffer).items() if isinstance(array, np.ndarray)}
        self._policy, self._optimizer = deepcopy(policy.state_dict()), deepcopy(policy.optimizer.state_dict())

    def update(self) -> Figures:
        """One `train` from the state in which this object was made: seconds of its parts and its CG steps."""
        policy, buffer = self.model.policy, self.model.rollout_buffer
        policy.load_state_dict(self._policy)
        policy.optimizer.load_state_dict(deepcopy(self._optimizer))
        buffer.generator_ready = False
        for key, array in self._buffer.items():
            setattr(buffer, key, array.copy())
        set_random_seed(self.seed)
        self._watch.seconds.clear()
        gc.collect()
        self.model.train()
        seconds = {f"{part}_s": value for part, value in self._watch.seconds.items()}
        return {**seconds, "cg_steps": self._watch.cg_steps}

    def actor_parameters(self) -> int:
        """How many numbers the trust region is about."""
        named = self.model.policy.named_parameters()
        return sum(parameter.numel() for name, parameter in named if "value" not in name)

    def close(self) -> None:
        """Give the environment's memory back."""
        self.model.env.close()


@th.no_grad()
def fill(model: OnPolicyAlgorithm, experience: Experience, chunk: int = 2048) -> None:
    """Fill the rollout buffer of ``model`` by ``experience``, repeated, as if its own policy had acted."""
    buffer = model.rollout_buffer
    buffer.reset()
    for field, array in experience._asdict().items():
        getattr(buffer, field)[:] = np.resize(array, (buffer.buffer_size, *array.shape[1:]))
    for start in range(0, buffer.buffer_size, chunk):
        rows = slice(start, start + chunk)
        observations, actions = th.as_tensor(buffer.observations[rows, 0]), th.as_tensor(buffer.actions[rows, 0])
        values, log_probs, _ = model.policy.evaluate_actions(observations.float(), actions)
        buffer.values[rows], buffer.log_probs[rows] = values.numpy(), log_probs.numpy()[:, None]
    buffer.compute_returns_and_advantage(last_values=th.zeros(1), dones=np.ones(1))
    buffer.pos, buffer.full, buffer.generator_ready = buffer.buffer_size, True, False


def make_updaters(names: tuple[str, ...], n_rows: int, width: int, experience: Experience) -> dict[str, Updater]:
    """One of each, with the same weights and the same buffer."""
    updaters: dict[str, Updater] = {}
    for name in names:
        like = next(iter(updaters.values()), None)
        updaters[name] = Updater(name, experience, n_rows, width, seed=0, like=like)
    return updaters


def measure_train(row: str, runs: int, n_updates: int) -> Iterator[Measurement]:
    """`train` alone: the median of ``n_updates`` in each repetition, each of which has a rollout of its own."""
    for repetition in range(runs):
        updaters = make_updaters(TRUST_REGION, ROLLOUT, WIDTHS[row], collect_experience(repetition))
        seen: dict[str, list[Figures]] = {name: [] for name in TRUST_REGION}
        for turn in range(1 + n_updates):
            for name in taking_turns(TRUST_REGION, repetition + turn):
                seen[name].append(undisturbed(updaters[name].update))
        for name, (_, *updates) in seen.items():
            updaters[name].close()
            figures = {key: float(np.median([update[key] for update in updates])) for key in updates[0]}
            say(row, name, f"{repetition + 1}/{runs}: {', '.join(f'{k} {v:.3g}' for k, v in figures.items())}")
            yield from (Measurement(row, name, repetition, key, value) for key, value in figures.items())


def measure_scaling(runs: int, quick: bool) -> Iterator[Measurement]:
    """`train` at growing numbers of rows, then at growing numbers of parameters."""
    experience = collect_experience(0)
    rows, widths = (SCALING_ROWS[:2], SCALING_WIDTHS[:2]) if quick else (SCALING_ROWS, SCALING_WIDTHS)
    yield from measure_sizes("rows", [(n_rows, 64) for n_rows in rows], runs, experience)
    yield from measure_sizes("parameters", [(ROLLOUT, width) for width in widths], runs, experience)


def measure_sizes(kind: str, sizes: list[tuple[int, int]], runs: int, experience: Experience) -> Iterator[Measurement]:
    """Updates of each (rows, width), as many as time allows; ``kind`` says which of the two is the size."""
    last: dict[str, tuple[int, float]] = {}
    for n_rows, width in sizes:
        updaters = make_updaters(TRUST_REGION, n_rows, width, experience)
        size = n_rows if kind == "rows" else updaters["sb3_trpo"].actor_parameters()
        for name in TRUST_REGION:
            before, seconds = last.get(name, (size, 0.0))
            if seconds * size / before > SCALING_LIMIT_S[name]:
                say("scaling", name, f"{kind} {size}: left out, it would take too long")
                updaters.pop(name).close()
        warm_up = {name: undisturbed(updater.update) for name, updater in updaters.items()}
        for repetition in range(runs):
            for name in taking_turns(tuple(updaters), repetition):
                is_enough = warm_up[name]["update_s"] > ENOUGH_S
                if is_enough and repetition:
                    continue
                figures = warm_up[name] if is_enough else undisturbed(updaters[name].update)
                say("scaling", name, f"{kind} {size}: {', '.join(f'{k} {v:.3g}' for k, v in figures.items())}")
                last[name] = size, figures["update_s"]
                for key, value in figures.items():
                    yield Measurement("scaling", name, repetition, f"{key} by {kind}", value, size)
        for updater in updaters.values():
            updater.close()


def measure_memory(runs: int) -> Iterator[Measurement]:
    """The growth of the peak during an update, each in a process of its own."""
    for repetition in range(runs):
        for name in taking_turns(TRUST_REGION, repetition):
            code = f"from benchmarks.speed_measure import peak_growth; print(peak_growth({name!r}, {repetition}))"
            output = subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                cwd=Path(__file__).resolve().parent.parent,
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
                stdout=subprocess.PIPE,
                text=True,
            )
            mebibytes = float(output.stdout) / 2**20
            say("memory", name, f"{repetition + 1}/{runs}: {mebibytes:.1f} MiB")
            yield Measurement("memory", name, repetition, "peak_mib", mebibytes)


def peak_growth(name: str, seed: int) -> int:
    """Bytes by which the resident memory rises at most during one update, above what it was before.

    A small update goes before, so that the code it loads is not counted.
    """
    prepare_process()
    experience = collect_experience(seed)
    Updater(name, experience, 256, MEMORY_WIDTH, seed).update()
    updater = Updater(name, experience, MEMORY_ROWS, MEMORY_WIDTH, seed)
    gc.collect()
    before = reset_peak()
    updater.model.train()
    return peak() - before


def reset_peak() -> int:
    """Set the mark of the peak back to what is resident now, where the kernel can; the mark, in bytes."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
        return status_bytes("VmRSS")
    return peak()


def peak() -> int:
    """The highest resident memory since the mark was set, in bytes."""
    if Path("/proc/self/clear_refs").exists():
        return status_bytes("VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status_bytes(key: str) -> int:
    """One of the sizes of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
