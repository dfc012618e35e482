"""What is saved of an algorithm, and how one that was loaded goes on."""

import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import get_device, get_system_info

from sb3_trpo.algorithms.critic import narrowed_state
from sb3_trpo.algorithms.model_file import REBUILT, attributes_of, parameters_of
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, Kind
from sb3_trpo.algorithms.training_state import TrainingState, pending_log
from sb3_trpo.algorithms.watch import watched
from sb3_trpo.saving.errors import FileError
from sb3_trpo.saving.model import VARIABLES, ModelFile, SavedModel, read_model, write_model

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="PersistentAlgorithm")


class PersistentAlgorithm(OnPolicyAlgorithm):
    """On-policy algorithm that is saved whole or not at all, loaded without running code, and goes on bit for bit."""

    policy: Any

    kind: ClassVar[Kind] = Kind(masks=False, memory=False)
    """Of the policies that it trains."""
    while_learning: ExitStack
    """Closed when `learn` ends, in whatever way: for callbacks that have something to undo then."""
    keeps_boundaries: bool = False
    """Whether the state at the start of every rollout is kept, from which an interrupted training goes on exactly."""
    _kept_by_optimizer: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._training_state: dict[str, Any] | None = None  # set in a file, and from `load` to `learn`
        self._boundary: TrainingState | None = None  # of the last rollout's start, where it is kept
        self._n_updates_at_start = 0

    def learn(self: SelfAlgorithm, *args: Any, **kwargs: Any) -> SelfAlgorithm:
        """As in Stable-Baselines3."""
        with ExitStack() as self.while_learning:
            return super().learn(*args, **kwargs)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """Also go on from the state of training that was loaded, unless the counting or the environment starts anew.

        :raises ExperienceError: for first observations that nothing can be learned from
        """
        state = None if reset_num_timesteps or self._last_obs is None else self._training_state
        self._training_state = self._boundary = None
        assert self.env is not None
        with watched(self.env):
            prepared = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
            self._n_updates_at_start = self._n_updates
            if state is not None:
                restored = TrainingState(**state)
                restored.restore(self)
                self._n_updates_at_start -= restored.iterations
        return prepared

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log; iterations are counted through where a training goes on."""
        super().dump_logs(iteration and self._n_updates - self._n_updates_at_start + 1)

    @property
    def timesteps_left(self) -> int:
        """Environment steps that were asked of the last `learn` and not made: with which a loaded model goes on."""
        return max(self._total_timesteps - self.num_timesteps, 0)

    @property
    def resumes_at(self) -> int:
        """The environment step at which a model goes on that is saved now."""
        between = self._last_boundary
        return self.num_timesteps if between is None else int(between.attributes["num_timesteps"])

    @property
    def monitor_sizes(self) -> list[int | None]:
        """How long each environment's file of episodes was, in bytes, when a model that goes on was saved."""
        environment = (self._training_state or {}).get("environment") or {"envs": []}
        return [
            next((file["size"] for layer in layers for file in layer.get("files", {}).values()), None)
            for layers in environment["envs"]
        ]

    def save(self, path: ModelFile, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save the model, and with it all that `load` with ``force_reset=False`` needs to go on exactly.

        That is the state between two updates. Saved during a rollout, it is that of its start if a callback keeps it
        (`sb3_trpo.callbacks.Checkpoints`), else the present one: the steps of the rollout so far are then not learned
        from. A file is written whole or not at all, an open one as it comes.

        :param path: ``.zip`` is added to a path without suffix, folders are made
        :param exclude: attributes that are not to be saved, such as ``"_training_state"``
        :param include: attributes that usually are not, and are to be
        :raises OSError: naming the file, when it cannot be written; the old one is as it was
        :raises ValueError: for an attribute that cannot be saved
        """
        states, variables = self._get_torch_save_params()
        left_out = {*self._excluded_save_params(), *(exclude or ())} - {*(include or ())}
        left_out |= {name.split(".")[0] for name in (*states, *variables)}
        attributes = {name: value for name, value in vars(self).items() if name not in left_out}
        if attributes.get("_training_state", ()) is None:  # else loaded, and not yet gone on from
            attributes["_training_state"] = self._state_between_updates()._asdict()
        write_model(
            path,
            ALGORITHM_FOR[self.kind],
            attributes,
            self.get_parameters(),
            {name: recursive_getattr(self, name) for name in variables},
        )

    def _note_boundary(self) -> None:
        """A rollout begins: note the state if it is to be kept."""
        if self.keeps_boundaries:
            self._boundary = TrainingState.of(self)

    @property
    def _last_boundary(self) -> TrainingState | None:
        """The state at the start of the rollout, where it is kept and no update followed."""
        boundary = self._boundary
        return None if boundary is None or boundary.updates != self._n_updates else boundary

    def _state_between_updates(self) -> TrainingState:
        """The last boundary, else the present state."""
        boundary = self._last_boundary
        return TrainingState.of(self) if boundary is None else boundary._replace(log=pending_log(self))

    @classmethod
    def load(
        cls: type[SelfAlgorithm],
        path: ModelFile,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """Load a model saved by this class; `TRPO` also loads those of `sb3_contrib.TRPO`.

        A model of sb3-contrib keeps its behaviour: its radius and damping, which are averages over action
        dimensions, are translated to those of the joint action, with a warning that tells the numbers. Arguments
        given here are taken as they are.

        No code of the file is run. Classes of your own and lambdas, which are code, are loaded with ``trust=True``
        only: pass it for files that you made yourself.

        :param env: environment to go on training in, or its id; not needed to predict
        :param custom_objects: values in place of those of the file
        :param trust: run the code that is in the file
        :param force_reset: False to go on exactly: environments, random generators, statistics and counters are then as
            they were when the model was saved, once `learn` is called with ``reset_num_timesteps=False``:

            .. code-block:: python

                model = TRPO.load("cheetah", env=env, force_reset=False)
                model.learn(model.timesteps_left, reset_num_timesteps=False)

        :param kwargs: constructor arguments to change
        :raises ValueError: for the file of another algorithm, saying which class loads it, or of another environment;
            for a damaged file, or one that needs to be trusted; and for an argument that cannot be used
        """
        if isinstance(env, str):
            env = maybe_make_env(env, verbose=0)
        if env is not None:
            env = cls._wrap_env(env)
        file = read_model(path)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")
            get_system_info()
            print(f"== SAVED MODEL SYSTEM INFO ==\n{file.system}")
        attributes = attributes_of(file, cls, cls.kind, env, custom_objects, kwargs, trust)
        if env is None:
            env = attributes.get("env")
        else:
            attributes["n_envs"] = env.num_envs
            if force_reset:
                attributes["_last_obs"] = None
        model = cls(attributes["policy_class"], env, device=device, _init_setup_model=False)
        vars(model).update(attributes)
        model._setup_model()
        model._restore(file, device)
        if force_reset:
            model._training_state = None
        elif model._training_state is not None:
            TrainingState(**model._training_state).rewind(model)
        return model

    def _restore(self, file: SavedModel, device: th.device | str) -> None:
        """Take the weights of a file.

        :raises FileError: when they are not those of this policy
        """
        try:
            self.set_parameters(parameters_of(file, self._get_torch_save_params()[0], self.policy, get_device(device)))
        except RuntimeError as error:
            raise FileError(f"{file.name}: the weights are not those of its policy: {error}") from error
        if VARIABLES in file.tensors:
            for name, value in file.state(VARIABLES, get_device(device)).items():
                recursive_setattr(self, f"{name}.data", value.data)
        if self.use_sde:
            self.policy.reset_noise()  # for matrices on the right device

    def set_parameters(  # type: ignore[override]  # Stable-Baselines3 means dictionaries of dictionaries, too
        self,
        load_path_or_dict: ModelFile | dict[str, dict[str, Any]],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As in Stable-Baselines3; an optimiser's state for the whole policy is narrowed to the critic's parameters.

        From the file of a policy whose actor and critic share what they do not share here, such as a CnnPolicy of
        PPO, the weights are taken and the critic's optimiser stays as it is, with a warning.

        :raises ValueError: for a file that is damaged, or holds weights that are not finite
        """
        if isinstance(load_path_or_dict, dict):
            params: dict[str, Any] = dict(load_path_or_dict)
        else:
            file = read_model(load_path_or_dict)
            params = dict(parameters_of(file, self._get_torch_save_params()[0], self.policy, get_device(device)))
        if "policy.optimizer" in params:
            state = narrowed_state(params["policy.optimizer"], self._kept_by_optimizer)
            own = self.policy.optimizer.state_dict()
            sizes, own_sizes = ([len(group["params"]) for group in s["param_groups"]] for s in (state, own))
            if sizes != own_sizes and not isinstance(load_path_or_dict, dict):
                warnings.warn(
                    f"the optimiser in {load_path_or_dict!s} is of {sum(sizes)} parameters, the critic's of "
                    f"{sum(own_sizes)}: the weights are loaded, the critic's optimiser stays as it is",
                    stacklevel=2,
                )
                state = own
            params["policy.optimizer"] = state
        super().set_parameters(params, exact_match, device)

    def _excluded_save_params(self) -> list[str]:
        """Also what belongs to the running `learn`, and what is found anew."""
        of_this_run = ["_boundary", "keeps_boundaries", "while_learning", "_kept_by_optimizer"]
        return [*super()._excluded_save_params(), *of_this_run, *REBUILT]
