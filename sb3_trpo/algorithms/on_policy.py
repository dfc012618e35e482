"""The trust-region algorithm that TRPO and its variants share."""

import math
import time
import warnings
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms import arguments, metrics, rollout
from sb3_trpo.algorithms.acting import Acting, acting_of
from sb3_trpo.algorithms.action_start import for_environment, options_taken
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.configured import ConfiguredAlgorithm
from sb3_trpo.algorithms.critic import Critic
from sb3_trpo.algorithms.experience import Experience, independent_steps
from sb3_trpo.algorithms.exploration import exploration_of
from sb3_trpo.algorithms.guards import guarded
from sb3_trpo.algorithms.masks import MaskSource, NoMasks
from sb3_trpo.algorithms.perceptrons import has_hooks, is_own
from sb3_trpo.algorithms.posing import Posed, Terms, pose
from sb3_trpo.algorithms.regressions import CriticFit, Settings, fit_critic
from sb3_trpo.algorithms.replay import replay
from sb3_trpo.algorithms.threads import one_numpy_thread
from sb3_trpo.algorithms.transaction import all_or_nothing
from sb3_trpo.algorithms.vec_env import lean_stepping
from sb3_trpo.core.natural_step import NaturalStep, natural_step
from sb3_trpo.extensions.extension import holdout, measured, reposed

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="TrustRegionAlgorithm")


class TrustRegionAlgorithm(ConfiguredAlgorithm):
    """On-policy algorithm whose actor takes natural-gradient steps inside a trust region.

    The arguments are those of `ConfiguredAlgorithm`.
    """

    @one_numpy_thread()
    @all_or_nothing
    def train(self) -> None:
        """One update: a natural-gradient step of the actor, then regression of the critic on the returns.

        Schulman et al. 2015, algorithm 1 with the approximations of section 6. One that is interrupted has not been.
        """
        # Dropout and batch statistics would make the policy differ between two evaluations of the same parameters.
        self.policy.set_training_mode(False)
        self._update_learning_rate(self.policy.optimizer)
        started = time.perf_counter()

        experience, n_rollouts, drift = replay(self)
        radius, damping = self._radius_and_damping(n_rollouts, drift)
        actor = Actor(self.policy, experience.steps.first(2))
        problem = reposed(*self._pose_problem(actor, experience), self._slots)
        step = natural_step(
            problem,
            radius=radius,
            damping=damping,
            cg_max_steps=self.cg_max_steps,
            cg_tolerance=self.cg_tolerance,
            shrinking_factor=self.line_search_shrinking_factor,
            max_candidates=self.line_search_max_iter,
            precondition=self.cg_preconditioner == "kronecker",
        )
        for slot in self._slots:
            slot.update(step)
        actor_done = time.perf_counter()

        critic = fit_critic(
            self.critic_regression,
            Critic(self.policy, actor.parameters, experience.steps.first(2)),
            experience.steps,
            experience.returns,
            Settings(self.batch_size, self.n_critic_updates, self.max_grad_norm),
        )
        critic_done = time.perf_counter()

        self._n_updates += 1
        self._warn_of_numeric_failure(step, critic)
        metrics.record(
            self.logger,
            metrics.UpdateReport(
                step=step,
                critic=critic,
                damping=damping,
                drift=drift if self.reuse > 1 else None,
                entropy=float(-experience.old_log_prob.mean()) if math.isnan(problem.entropy) else problem.entropy,
                std=float(self.policy.log_std.detach().exp().mean()) if hasattr(self.policy, "log_std") else None,
                explained_variance=self._explained_variance(),
                n_updates=self._n_updates,
                rollout_seconds=self._rollout_seconds,
                actor_seconds=actor_done - started,
                critic_seconds=critic_done - actor_done,
                measures=measured(self._slots),
            ),
        )

    def _pose_problem(self, actor: Actor, experience: Experience) -> Posed:
        """The surrogate objective and trust region of one rollout, before any extension."""
        if isinstance(self.action_space, spaces.Discrete):
            experience = experience._replace(actions=experience.actions.long().flatten())
        return pose(actor, experience, self._terms())

    def _terms(self) -> Terms:
        """What the problem of the coming update is to be.

        :raises ValueError: when a schedule gives no number, or a negative bonus
        """
        progress = self._current_progress_remaining
        bonus = self.ent_coef(progress) if callable(self.ent_coef) else self.ent_coef
        floor = self.entropy_floor(progress) if callable(self.entropy_floor) else self.entropy_floor
        arguments.check_number(f"ent_coef at remaining progress {progress:.3f}", bonus, ">= 0", lambda x: x >= 0)
        if floor is not None:
            arguments.check_number(f"entropy_floor at remaining progress {progress:.3f}", floor, "", lambda x: True)
        return Terms(self.normalize_advantage, self.sub_sampling_factor, holdout(self._slots), bonus, floor)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """From 1 to 0 and no further: the last rollout overshoots the end, where schedules would turn negative."""
        self._current_progress_remaining = max(1.0 - num_timesteps / total_timesteps, 0.0)

    def _radius_and_damping(self, n_rollouts: int, drift: float) -> tuple[float, float]:
        """delta and lambda of the coming update from ``n_rollouts``, from whose policies the present one has drifted.

        :raises ValueError: when a schedule, the controller or the bound gives a negative number or none at all
        """

        def check(name: str, value: Any) -> None:
            arguments.check_number(f"{name} at remaining progress {progress:.3f}", value, ">= 0", lambda x: x >= 0)

        progress = self._current_progress_remaining
        target, damping = (
            float(value(progress)) if callable(value) else float(value) for value in (self.target_kl, self.cg_damping)
        )
        radius = self.radius_controller.radius(target, progress)
        check("radius", radius)
        check("cg_damping", damping)
        radius *= self.radius_factor
        if self.reuse > 1:
            radius = self.drift_bound.within(radius, self.reuse, n_rollouts, drift)
            check("radius within reuse_bound", radius)
        return radius, damping

    def _explained_variance(self) -> float:
        """Of the rollout's returns by its values; NaN, without a word of numpy's, where they are not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            buffer = self.rollout_buffer
            return float(explained_variance(buffer.values.flatten(), buffer.returns.flatten()))

    def _warn_of_numeric_failure(self, step: NaturalStep, critic: CriticFit) -> None:
        """Tell the user of NaN and infinity at once; ordinary refusals are in the log."""
        if step.status.is_numeric_failure:
            warnings.warn(f"update {self._n_updates}: the policy step was {step.status.value}", stacklevel=3)
        if critic.skipped:
            warnings.warn(
                f"update {self._n_updates}: {critic.skipped} critic minibatches were skipped because their loss or "
                "gradient was not finite, look for NaN or huge values in rewards and observations",
                stacklevel=3,
            )

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in Stable-Baselines3, faster where the actor is a plain perceptron; the time is noted for the log.

        :raises ExperienceError: for rewards, observations or values that nothing can be learned from
        """
        started = time.perf_counter()
        self._note_boundary()
        is_fast = self.fast_rollout and rollout.applies(self, env, rollout_buffer, n_rollout_steps)
        with lean_stepping(env) if is_fast else nullcontext(), guarded(self, env, rollout_buffer):
            if is_fast:
                finished = rollout.collect(self, env, callback, rollout_buffer, n_rollout_steps)
            else:
                with options_taken(env, self.action_space), exploration_of(self).in_forward(rollout_buffer):
                    finished = self._collect_plainly(env, callback, rollout_buffer, n_rollout_steps)
        self._rollout_seconds = time.perf_counter() - started
        return finished

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for observations, as in Stable-Baselines3; those of ``Discrete(n, start=s)`` start at s."""
        options, state = super().predict(observation, state, episode_start, deterministic)
        return for_environment(options, self.action_space), state

    def learn(
        self: SelfAlgorithm,
        total_timesteps: float,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """Train for ``total_timesteps`` environment steps (a float such as 1e6 is fine).

        :param callback: called at every step; a list is called in order
        :param log_interval: rollouts between two rows of the log
        :param tb_log_name: name of the run in the TensorBoard log, the name of the algorithm by default
        :param reset_num_timesteps: start counting at zero, and not where an earlier `learn` ended
        :param progress_bar: show a progress bar (needs ``tqdm`` and ``rich``)
        :raises ValueError: when ``total_timesteps`` is not a whole number >= 0
        """
        arguments.check_number(
            "total_timesteps", total_timesteps, "and a whole number >= 0", lambda x: x >= 0 and x == int(x)
        )
        return super().learn(
            int(total_timesteps),
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    # What a variant of the algorithm does differently.

    def _experience(self) -> Experience:
        """What is in the rollout buffer."""
        return independent_steps(self.rollout_buffer)

    def _acts_as_it_is_evaluated(self) -> bool:
        """Whether the policy can be evaluated after the rollout for what it did during it."""
        own = ("forward", "get_distribution", "extract_features", "predict_values")
        return all(is_own(self.policy, name) for name in own) and not any(
            has_hooks(module) for module in (self.policy, self.policy.mlp_extractor)
        )

    def _acting(self, rollout_buffer: RolloutBuffer, n_steps: int) -> Acting:
        """How actions come about during a rollout of ``n_steps`` into ``rollout_buffer``."""
        return acting_of(self, n_steps)

    def _mask_source(self, env: VecEnv, rollout_buffer: RolloutBuffer) -> MaskSource:
        """Where the action masks of a rollout come from."""
        return NoMasks()

    def _collect_plainly(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """The loop of Stable-Baselines3."""
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
