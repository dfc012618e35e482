"""The arguments of the algorithms, checked, and what is built of them."""

import copy
import math
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms import arguments, exploration
from sb3_trpo.algorithms.actor import Actor
from sb3_trpo.algorithms.critic import keep_critic_only
from sb3_trpo.algorithms.regressions import Regression
from sb3_trpo.algorithms.replay import Rollout
from sb3_trpo.algorithms.resumable import ResumableAlgorithm
from sb3_trpo.algorithms.slots import fill
from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.algorithms.subproc import watch_workers
from sb3_trpo.core.trust_region import RadiusController
from sb3_trpo.extensions.correlated_noise import NoiseProcess
from sb3_trpo.extensions.extension import Extension, groups, holdout
from sb3_trpo.extensions.sample_reuse import ReuseBound


class ConfiguredAlgorithm(ResumableAlgorithm):
    """Policy, rollout buffer, radius controller, critic and extensions of an algorithm, as its arguments ask for.

    The arguments up to ``_init_setup_model`` have the names, positions and meanings of `sb3_contrib.TRPO`, save
    two: ``target_kl`` bounds the KL of the joint action (sb3-contrib: its average over action dimensions), and
    ``sub_sampling_factor`` thins the Fisher estimate alone (sb3-contrib: gradient and KL test too). A *schedule* is
    a function of the remaining progress, which falls from 1 to 0.

    :param policy: a name, ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"`` (with memory ``"MlpLstmPolicy"``
        and so on), or a policy class
    :param env: environment, vectorised environment, or the id of a registered one; a `SubprocVecEnv` is watched, see
        `sb3_trpo.algorithms.subproc`
    :param learning_rate: of the critic's optimiser; number or schedule
    :param n_steps: steps per environment and update
    :param batch_size: minibatch size of the critic
    :param gamma: discount factor, in [0, 1]
    :param cg_max_steps: most conjugate gradient steps per update, each one Fisher-vector product
    :param cg_damping: damping lambda of the Fisher matrix, >= 0; number or schedule
    :param line_search_shrinking_factor: backtracking fraction, in (0, 1)
    :param line_search_max_iter: candidates the line search tries before it refuses the step
    :param n_critic_updates: passes of the critic over the rollout
    :param gae_lambda: trade-off between bias and variance of the advantages, in [0, 1]
    :param use_sde: generalised state-dependent exploration (continuous actions)
    :param sde_sample_freq: steps between new exploration matrices, -1 for once a rollout
    :param rollout_buffer_class: rollout buffer, chosen by the observation space when None
    :param rollout_buffer_kwargs: its further arguments
    :param normalize_advantage: standardise the advantages of each rollout
    :param target_kl: trust-region radius delta, the largest mean KL(old || new) of the joint action in nats;
        number or schedule
    :param sub_sampling_factor: every how manyeth step enters the Fisher estimate
    :param stats_window_size: episodes averaged in the rollout statistics
    :param tensorboard_log: folder of the TensorBoard log, None for none
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 silent, 1 info, 2 debug
    :param seed: of all random generators
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    :param cg_tolerance: relative residual at which conjugate gradient stops, in [0, 1)
    :param radius: controller of the trust-region radius: ``"fixed"`` at ``target_kl``, ``"scheduled"`` over training,
        ``"adaptive"`` by the reduction ratio, ``"confidence"`` by how sure the improvement is, ``"uncertainty"``
        smaller where the gradient is uncertain, or a class like those in `sb3_trpo.core.trust_region`
    :param radius_kwargs: further arguments of the controller
    :param max_grad_norm: largest gradient norm of the critic, None for no limit
    :param fast_rollout: evaluate the critic after the rollout, and step plain perceptrons in numpy, instead of
        Stable-Baselines3's own loop (see `sb3_trpo.algorithms.rollout`)
    :param critic: how the critic is fitted: ``"minibatch"`` by the policy's optimiser, ``"gauss_newton"`` by
        natural-gradient steps on the whole rollout, or a class like those in `sb3_trpo.algorithms.regressions`
    :param cg_preconditioner: ``"kronecker"`` has conjugate gradient converge sooner by Kronecker factors of the Fisher
        matrix of a perceptron; a solution closer to the exact one is not always the better step, hence None
    :param critic_kwargs: further arguments of the fit, such as ``{"holdout": 0.1}``
    :param gradient_estimator: ``"batch"``, the gradient of the rollout; ``"tracking"``, smoothed by history, or
        ``"hessian_tracking"``, less biased; or a class like those in `sb3_trpo.extensions`
    :param gradient_estimator_kwargs: its further arguments, such as ``{"weight": 0.5}``
    :param validation: what every step must pass on steps that it was not computed from: ``"none"``, ``"held_out"``, or
        a class like those in `sb3_trpo.extensions`
    :param validation_kwargs: its further arguments, such as ``{"holdout": 0.2}``
    :param ent_coef: entropy bonus in the surrogate objective, in units of advantages per nat; number or schedule
    :param entropy_floor: mean entropy in nats below which it is pulled back (see `sb3_trpo.extensions.entropy`); number
        or schedule, None for none
    :param reuse: rollouts in one update, the present one and those before it (see `sb3_trpo.extensions.sample_reuse`):
        lower ``n_steps`` by as much; not for policies with memory
    :param reuse_bound: what the trust region of reused rollouts is lowered to, so that the guarantee of improvement
        stands: ``"fixed"`` for the worst case, ``"adaptive"`` by how far the policy has moved, or a class like those in
        `sb3_trpo.extensions.sample_reuse`
    :param reuse_bound_kwargs: its further arguments
    :param action_noise: process that the noise of continuous actions in rollouts is taken from: ``"colored"`` of power
        spectrum f^-beta, ``"pink"``, ``"ou"`` (Ornstein-Uhlenbeck), ``"white"``, or a class like those in
        `sb3_trpo.extensions.correlated_noise`; None for the policy's own. `predict` draws the policy's own
    :param action_noise_kwargs: its further arguments, such as ``{"beta": 0.5}``
    :raises ValueError: for an argument of a wrong type or value, an unsupported action space, or a policy whose
        distribution has no KL divergence
    """

    policy: Any
    radius_controller: RadiusController
    critic_regression: Regression
    gradient_tracker: Extension
    step_validation: Extension
    drift_bound: ReuseBound
    noise_process: NoiseProcess | None = None
    radius_factor: float = 1.0
    """Multiplies every radius; below one while a callback holds the training back (`sb3_trpo.callbacks.Validation`)."""

    rollout_buffers: ClassVar[tuple[type[RolloutBuffer], type[DictRolloutBuffer]]] = (RolloutBuffer, DictRolloutBuffer)
    """The usual rollout buffers, for arrays and for dictionaries of them."""
    action_spaces: ClassVar[tuple[type, ...]] = arguments.ACTION_SPACES
    """Those that the policies can act in."""

    @arguments.explaining_ppo_arguments
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float | Schedule = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float | Schedule = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        cg_tolerance: float = 1e-4,
        radius: str | type[RadiusController] = "fixed",
        radius_kwargs: dict[str, Any] | None = None,
        max_grad_norm: float | None = None,
        fast_rollout: bool = True,
        critic: str | type[Regression] = "minibatch",
        critic_kwargs: dict[str, Any] | None = None,
        cg_preconditioner: str | None = None,
        gradient_estimator: str | type[Extension] = "batch",
        gradient_estimator_kwargs: dict[str, Any] | None = None,
        validation: str | type[Extension] = "none",
        validation_kwargs: dict[str, Any] | None = None,
        ent_coef: float | Schedule = 0.0,
        entropy_floor: float | Schedule | None = None,
        reuse: int = 1,
        reuse_bound: str | type[ReuseBound] = "fixed",
        reuse_bound_kwargs: dict[str, Any] | None = None,
        action_noise: str | type[NoiseProcess] | None = None,
        action_noise_kwargs: dict[str, Any] | None = None,
    ):
        arguments.check_arguments(locals())
        self._check_policy_name(policy)
        if env is None and _init_setup_model:
            raise ValueError("env=None: pass an environment, a vectorised one, or the id of a registered one")
        if env is not None:
            env = maybe_make_env(env, verbose)
            if not (hasattr(env, "action_space") and hasattr(env, "observation_space")):
                raise ValueError(f"env={env!r} must be an environment, a vectorised one, or the id of a registered one")
            arguments.check_action_space(env.action_space, self.action_spaces, type(self).__name__)
            arguments.check_observation_space(env.observation_space)
            arguments.check_exploration(use_sde, env.action_space)
            arguments.check_action_noise(action_noise, use_sde, env.action_space)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=0.0,  # the critic is regressed on its own
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=None if seed is None else int(seed),
            device=device,
            _init_setup_model=False,
        )
        self.batch_size = batch_size
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_tolerance = cg_tolerance
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.n_critic_updates = n_critic_updates
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.sub_sampling_factor = sub_sampling_factor
        self.radius = radius
        self.radius_kwargs = radius_kwargs
        self.fast_rollout = fast_rollout
        self.cg_preconditioner = cg_preconditioner
        self.critic = critic
        self.critic_kwargs = critic_kwargs
        self.gradient_estimator = gradient_estimator
        self.gradient_estimator_kwargs = gradient_estimator_kwargs
        self.validation = validation
        self.validation_kwargs = validation_kwargs
        self.entropy_floor = entropy_floor
        self.reuse = reuse
        self.reuse_bound = reuse_bound
        self.reuse_bound_kwargs = reuse_bound_kwargs
        self.past_rollouts: tuple[Rollout, ...] = ()
        self.action_noise = action_noise  # type: ignore[assignment]  # of another kind than Stable-Baselines3's
        self.action_noise_kwargs = action_noise_kwargs
        self._rollout_seconds = math.nan
        self._has_warned_of_scale = False
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As in Stable-Baselines3; a `SubprocVecEnv` tells of dead workers from then on."""
        wrapped: VecEnv = ResumableAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        watch_workers(wrapped)
        return wrapped

    def _setup_model(self) -> None:
        """Build buffer, policy, schedules and the radius controller, unless a saved one was restored."""
        arguments.check_arguments(vars(self))  # again: `load` has replaced them
        arguments.check_policy_class(self.policy_class, self.kind, type(self).__name__)
        arguments.check_rollout_size(self.n_steps, self.n_envs, self.sub_sampling_factor, self.normalize_advantage)
        arguments.check_exploration(self.use_sde, self.action_space)
        arguments.check_action_noise(self.action_noise, self.use_sde, self.action_space)
        if not callable(self.learning_rate):
            self.learning_rate = float(self.learning_rate)  # Stable-Baselines3 takes no numpy scalar
        given = (
            f"policy {self.policy_class.__name__} with policy_kwargs={self.policy_kwargs!r} and "
            f"rollout_buffer_kwargs={self.rollout_buffer_kwargs!r} on {self.observation_space}"
        )
        with arguments.as_value_errors(given):
            self._setup_lr_schedule()
            self.set_random_seed(self.seed)
            self.policy = self._make_policy().to(self.device)
            self.rollout_buffer = self._make_rollout_buffer()
        self._maybe_recommend_cpu()
        fill(self)
        arguments.check_reuse(self.reuse, self.kind.memory)
        exploration.begin_noise(self)
        arguments.check_holdout(holdout(self._slots), self.n_steps, self.n_envs, self.kind.memory)
        arguments.check_groups(groups(self._slots), self.n_envs, self.kind.memory)
        self._kept_by_optimizer = keep_critic_only(self.policy.optimizer, self._probe_policy().parameters)

    @property
    def _slots(self) -> tuple[Any, ...]:
        """What looks at every step; those among them that are extensions pose its problem anew, in this order."""
        return self.gradient_tracker, self.radius_controller, self.step_validation

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """As in Stable-Baselines3, which would call a method of what its off-policy algorithms call action noise.

        No callback holds the training back before one does so.
        """
        self.radius_factor = 1.0
        self._hidden_noise, self.action_noise = self.action_noise, None
        try:
            return super()._setup_learn(*args, **kwargs)
        finally:
            self._show_action_noise()

    def _init_callback(self, *args: Any, **kwargs: Any) -> BaseCallback:
        """As in Stable-Baselines3; callbacks, which may save, find the algorithm whole."""
        self._show_action_noise()
        return super()._init_callback(*args, **kwargs)

    def _show_action_noise(self) -> None:
        """Let it be what it was again, if it is hidden."""
        if "_hidden_noise" in vars(self):
            self.action_noise = vars(self).pop("_hidden_noise")

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in Stable-Baselines3; the noise of actions begins anew, too."""
        super().set_random_seed(seed)
        if seed is not None:
            exploration.begin_noise(self)

    def _excluded_save_params(self) -> list[str]:
        """Also the time that the last rollout took, what was said, and what the state of training has."""
        own = ("_rollout_seconds", "_has_warned_of_scale", "past_rollouts", "noise_process")
        return [*super()._excluded_save_params(), *own]

    def _probe_policy(self) -> Actor:
        """Refuse, now and not after the first rollout, a policy that the trust region cannot handle."""
        observations, _ = self.policy.obs_to_tensor(_some_observation(self.observation_space))
        self.policy.set_training_mode(False)
        steps = self._steps(observations)
        actor = Actor(self.policy, steps)
        arguments.check_entropy(self.ent_coef, self.entropy_floor, actor.distribution(steps).entropy())
        return actor

    def _check_policy_name(self, policy: Any) -> None:
        """Refuse a policy that is neither a class nor one of the aliases."""
        if isinstance(policy, str) and policy not in self.policy_aliases:
            known = ", ".join(map(repr, self.policy_aliases))
            raise ValueError(
                f"policy={policy!r} must be one of {known}, or a policy class; "
                "LSTM policies are for RecurrentTRPO and MaskableRecurrentTRPO"
            )

    # What a variant of the algorithm builds differently.

    def _make_policy(self) -> BasePolicy:
        """The policy, not yet on its device."""
        policy: BasePolicy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, use_sde=self.use_sde, **self.policy_kwargs
        )
        return policy

    def _make_rollout_buffer(self, **more: Any) -> RolloutBuffer:
        """The rollout buffer; ``more`` are arguments that its kind needs."""
        usual = self.rollout_buffers[isinstance(self.observation_space, spaces.Dict)]
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = usual
        arguments.check_class("rollout_buffer_class", self.rollout_buffer_class, usual)
        return self.rollout_buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            **more,
            **self.rollout_buffer_kwargs,
        )

    def _steps(self, observations: Any) -> Steps:
        """Observations (N, ...) as steps that the policy can be asked about, without masks and at a loss of memory."""
        return Steps(observations)


def _some_observation(space: Any) -> Any:
    """Zeros inside the space's bounds, which may be too wide to sample from; drawn from a copy, not from the user's."""
    if isinstance(space, spaces.Dict):
        return {key: _some_observation(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape), space.low, space.high).astype(space.dtype)
    space = copy.deepcopy(space)
    space.seed(0)
    return space.sample()
