"""Validation and rollback: a training whose policy has become worse goes on from the last good one, more carefully.

Every so often the policy plays some episodes in an environment of its own. It is tested twice:

1. against the returns of the *last good* policy that are known. Most validations end here, and the policy becomes the
   last good one, unless it is significantly worse than the best so far: a slow decline does not go unnoticed;
2. where it seems to have fallen, on fresh episodes of both, as many of each, from the same initial states. Returns by
   which a policy was chosen are not those that it has: the last good one had luck, the new one had none. Only a fall
   that fresh returns confirm leads to a rollback, so that each validation does so by mistake with a probability of
   about ``alpha`` at most, however many there were before. A mistake costs the updates since the last good policy.

Put back are then the weights, the critic's optimiser, the radius controller, extensions, and the statistics of
`VecNormalize` (`sb3_trpo.algorithms.learned`): all of it or, when that is interrupted, nothing. Rollouts that were to
be used again are those of policies that are no more, and are dropped. Steps are counted on, exploration goes on. The
same updates would fail again, hence the trust region shrinks, and recovers slowly.

There is nothing to lose before anything has been learned: a policy that was never updated is not gone back to, unless
one significantly better than it has been found.
"""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_trpo.algorithms.arguments import check_integer, check_number
from sb3_trpo.algorithms.learned import Learned, put_statistics
from sb3_trpo.algorithms.on_policy import TrustRegionAlgorithm
from sb3_trpo.algorithms.transaction import done_or_undone, duplicate
from sb3_trpo.callbacks.averaged import AveragedPolicy, evaluated
from sb3_trpo.callbacks.episodes import play
from sb3_trpo.callbacks.falls import Returns, p_value_of_fall
from sb3_trpo.callbacks.kept import check_algorithm, copied, others_beside, save_with_statistics
from sb3_trpo.callbacks.multiples import has_passed_multiple

STATE = "Validation"
"""Its place among the states of callbacks."""


class Progress(NamedTuple):
    """What is remembered: how many ``validations`` there were, the last one at ``step``, how many ``rollbacks``; the
    returns of the ``first`` policy, and whether it ``was_trained``; those of the best one, found at ``best_step``, and
    of the last good one, found at ``good_step``, which had ``learned`` what is put back; and the radius ``factor``
    after update ``since``.
    """

    validations: int
    step: int
    rollbacks: int
    first: Returns
    was_trained: bool
    best: Returns
    best_step: int
    good: Returns
    good_step: int
    learned: dict[str, Any]
    factor: float = 1.0
    since: int = 0


class Comparison(NamedTuple):
    """Returns of the last ``good`` policy and of the new one, and the ``p_value`` of a fall from one to the other."""

    good: Returns
    new: Returns
    p_value: float


class Validation(BaseCallback):
    """Goes back to the last good policy when the return in ``env`` fell significantly; keeps the best on disk.

    .. code-block:: python

        validation = Validation(make_vec_env("Hopper-v5"), eval_freq=20_000, save_path="hopper")
        TRPO("MlpPolicy", "Hopper-v5").learn(1_000_000, validation)

    Validated is the policy between two updates: before the first one, at the first occasion at or after each multiple
    of ``eval_freq``, and at the end of `learn`. What is remembered is saved with the model, so that a training that
    goes on is the one that was not interrupted. This tests what was learned by returns; the algorithm's own argument
    ``validation`` tests steps by their surrogate objective, before they are made.

    :param env: to play in, not the one that is trained in; where that is normalised, one in `VecNormalize` with
        ``training=False`` and ``norm_reward=False``, which gets the statistics of the training. One with action masks
        for algorithms that act by them. Images are transposed as for the training
    :param eval_freq: environment steps between two validations, counted over all environments
    :param n_eval_episodes: episodes of each sample, at least 2
    :param deterministic: play without exploration noise
    :param alpha: level of the test, in (0, 0.5)
    :param tolerance: share of the gain in mean return, from the first policy to the best, that may be lost unnoticed
    :param shrink: what a rollback multiplies the radius by, in (0, 1]; 1 leaves it
    :param recovery: what each update multiplies it by until it is back, >= 1; 1 leaves it small
    :param min_factor: below which the radius does not shrink, as a share, in (0, 1]
    :param averaged: validate, keep and put back this average in place of the present policy; list it before
    :param save_path: folder of ``best_model.zip``, and ``best_vecnormalize.pkl`` beside it; None to save none
    :param seed: of the episodes, which are others in each validation
    :param verbose: 1 to print a line for each validation
    :raises ValueError: for a number out of range
    """

    def __init__(
        self,
        env: VecEnv | gym.Env[Any, Any],
        eval_freq: int = 10_000,
        n_eval_episodes: int = 10,
        deterministic: bool = True,
        alpha: float = 0.05,
        tolerance: float = 0.05,
        shrink: float = 0.5,
        recovery: float = 1.02,
        min_factor: float = 0.01,
        averaged: AveragedPolicy | None = None,
        save_path: str | Path | None = None,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        check_integer("eval_freq", eval_freq, 1)
        check_integer("n_eval_episodes", n_eval_episodes, 2, why="one return has no variance")
        check_number("alpha", alpha, "in (0, 0.5)", lambda x: 0 < x < 0.5)
        check_number("tolerance", tolerance, "in [0, 1)", lambda x: 0 <= x < 1)
        check_number("shrink", shrink, "in (0, 1]", lambda x: 0 < x <= 1)
        check_number("recovery", recovery, ">= 1", lambda x: x >= 1)
        check_number("min_factor", min_factor, "in (0, 1]", lambda x: 0 < x <= 1)
        check_integer("seed", seed, 0)
        if not isinstance(averaged, AveragedPolicy | None):
            raise ValueError(f"averaged={averaged!r} must be an AveragedPolicy, or None to validate the present policy")
        if not isinstance(env, VecEnv | gym.Env):
            raise ValueError(f"env={env!r} must be an environment, or a vectorised one: make one of an id")
        self.env = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: Monitor(env)])
        self.eval_freq, self.n_eval_episodes, self.deterministic = eval_freq, n_eval_episodes, deterministic
        self.alpha, self.tolerance = alpha, tolerance
        self.shrink, self.recovery, self.min_factor = shrink, recovery, min_factor
        self.averaged = averaged
        self.save_path = None if save_path is None else Path(save_path)
        self.seed = seed

    model: TrustRegionAlgorithm

    def _init_callback(self) -> None:
        check_algorithm(self)
        self.env = self.model._wrap_env(self.env)
        if self.env.unwrapped is cast(VecEnv, self.model.get_env()).unwrapped:
            raise ValueError("env is the one that is trained in: validate in another like it")
        check_for_correct_spaces(self.env, self.model.observation_space, self.model.action_space)
        normalizer, own = self.model.get_vec_normalize_env(), unwrap_vec_normalize(self.env)
        if (normalizer is None) != (own is None) or (own is not None and (own.training or own.norm_reward)):
            raise ValueError(
                f"env={self.env!r} must be wrapped in VecNormalize(..., training=False, norm_reward=False) if the "
                "environment that is trained in is wrapped in VecNormalize, and only then"
            )

    def _on_training_start(self) -> None:
        for other in others_beside(self, Validation):
            if isinstance(other, AveragedPolicy) and other is not self.averaged:
                raise ValueError(
                    "an average of the policies is kept, and would not be put back: validate it, by "
                    "Validation(env, averaged=...), or leave it out"
                )
        if not self.model.num_timesteps:  # a training that begins anew
            self.model.callback_states = {k: state for k, state in self.model.callback_states.items() if k != STATE}

    def _on_rollout_start(self) -> None:
        progress = self.progress
        if progress is None or has_passed_multiple(self.eval_freq, progress.step, self.model.num_timesteps):
            self._validate()
        self.model.radius_factor = self._factor()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.progress is None or self.progress.step != self.model.num_timesteps:
            self._validate()
            self.model.radius_factor = self._factor()
            self.logger.dump(self.model.num_timesteps)

    @property
    def progress(self) -> Progress | None:
        """What is remembered; None before the first validation."""
        state = self.model.callback_states.get(STATE)
        return None if state is None else Progress(**state)

    def _validate(self) -> None:
        """Play, test, and go back where the test says so."""
        model, before = self.model, self.progress
        candidate = evaluated(model, self.averaged)
        if self.averaged is not None:
            self.averaged.catch_up()
        learned, step = Learned.of(model, candidate.policy), model.num_timesteps
        seeds = np.random.SeedSequence([self.seed, before.validations if before else 0]).generate_state(2) >> 1
        returns = self._play(candidate, learned, seeds[0])
        if before is None:
            trained = model._n_updates > 0
            now = Progress(1, step, 0, returns, trained, returns, step, returns, step, learned._asdict())
            self._conclude(candidate, now, Comparison(returns, returns, 1.0), is_best=True)
            return
        margin = self.tolerance * max(float(before.best.mean() - before.first.mean()), 0.0)
        may_lose = before.was_trained or p_value_of_fall(before.best, before.first) < self.alpha
        now = before._replace(validations=before.validations + 1, step=step)
        compared = Comparison(before.good, returns, p_value_of_fall(before.good, returns, margin))
        if may_lose and compared.p_value < self.alpha:
            good = self._play(*self._last_good(before), seeds[1])
            returns = self._play(candidate, learned, seeds[1])
            compared = Comparison(good, returns, p_value_of_fall(good, returns, margin))
            now = now._replace(good=good, best=good if now.best_step == now.good_step else now.best)
        if may_lose and compared.p_value < self.alpha:
            factor = max(self._factor() * self.shrink, self.min_factor)
            now = now._replace(rollbacks=now.rollbacks + 1, factor=factor, since=model._n_updates)
            self._conclude(candidate, now, compared)
            return
        if not may_lose or p_value_of_fall(now.best, returns, margin) >= self.alpha:
            now = now._replace(good=returns, good_step=step, learned=learned._asdict())
        is_best = returns.mean() > now.best.mean()
        if is_best:
            now = now._replace(best=returns, best_step=step)
        self._conclude(candidate, now, compared, is_best)

    def _conclude(
        self, candidate: TrustRegionAlgorithm, now: Progress, compared: Comparison, is_best: bool = False
    ) -> None:
        """Save, log and print what the validation came to, and remember it in the end.

        What is interrupted before is done again when the training goes on.
        """
        good, returns, p_value = compared
        is_rollback = now.rollbacks > (self.progress.rollbacks if self.progress else 0)
        if is_best and self.save_path is not None:
            save_with_statistics(candidate, self.save_path, "best")
        self.logger.record("validation/mean_reward", float(returns.mean()))
        self.logger.record("validation/last_good", float(good.mean()))
        self.logger.record("validation/p_value", p_value)
        self.logger.record("validation/rollbacks", now.rollbacks)
        self.logger.record("validation/radius_factor", now.factor if is_rollback else self._factor())
        if self.verbose:
            outcome = f"back to that of step {now.good_step:,}, radius x {now.factor:.2g}" if is_rollback else "kept"
            print(
                f"validation at {now.step:,} steps: return {returns.mean():.1f} ± {returns.std(ddof=1):.1f}, last good "
                f"{good.mean():.1f} ± {good.std(ddof=1):.1f}, p = {p_value:.2g}: {outcome}"
            )
        if is_rollback:
            self._roll_back(now)
        else:
            self._remember(now)

    def _roll_back(self, now: Progress) -> None:
        """Put back what the last good policy had learned, or leave everything as it is."""
        model, averaged = self.model, None if self.averaged is None else self.averaged.policy
        present, average = Learned.of(model), None if averaged is None else duplicate(dict(averaged.state_dict()))
        names = ("_last_obs", "_boundary", "callback_states", "past_rollouts")
        attributes = {name: getattr(model, name) for name in names}

        def go_back() -> None:
            learned = Learned(**now.learned)
            learned.put(model)
            model.past_rollouts = ()
            if averaged is not None:
                averaged.load_state_dict(learned.weights)
            env = model.get_env()
            if isinstance(env, VecNormalize) and model._last_obs is not None:
                model._last_obs = env.normalize_obs(env.get_original_obs())
            self._remember(now)
            model._note_boundary()

        def stay() -> None:
            present.put(model)
            if averaged is not None:
                averaged.load_state_dict(average)
            vars(model).update(attributes)

        done_or_undone(go_back, stay)
        if model.use_sde:
            model.policy.reset_noise(model.n_envs)  # drawn for the policy that is no more

    def _remember(self, now: Progress) -> None:
        self.model.callback_states = {**self.model.callback_states, STATE: now._asdict()}

    def _factor(self) -> float:
        """Of the radius: that after the last rollback, recovered from since."""
        progress = self.progress
        if progress is None:
            return 1.0
        growth = (self.model._n_updates - progress.since) * math.log(self.recovery)
        return math.exp(min(math.log(progress.factor) + growth, 0.0))

    def _last_good(self, progress: Progress) -> tuple[TrustRegionAlgorithm, Learned]:
        """The algorithm with the last good policy, and what that had learned."""
        learned, algorithm = Learned(**progress.learned), copy.copy(self.model)
        algorithm.policy = copied(self.model.policy)
        algorithm.policy.load_state_dict(learned.weights)
        return algorithm, learned

    def _play(self, algorithm: TrustRegionAlgorithm, learned: Learned, seed: Any) -> Returns:
        """Returns (n_eval_episodes,) of its policy, by the statistics that it had.

        :raises ValueError: when one is not finite
        """
        put_statistics(unwrap_vec_normalize(self.env), learned.statistics)
        returns = play(algorithm, self.env, self.n_eval_episodes, int(seed), self.deterministic).returns
        if not np.isfinite(returns).all():
            raise ValueError(f"returns of the validation must be finite, and are {returns}: look at the rewards of env")
        return returns
