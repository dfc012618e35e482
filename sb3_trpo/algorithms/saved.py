"""Algorithms whose files are whole, checked, and run no code when they are loaded (see `sb3_trpo.saving`)."""

import warnings
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device, get_system_info

from sb3_trpo.algorithms.critic import narrowed_state
from sb3_trpo.algorithms.model_file import REBUILT, attributes_of, parameters_of
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, Kind
from sb3_trpo.saving.errors import FileError
from sb3_trpo.saving.model import VARIABLES, ModelFile, SavedModel, read_model, write_model

SelfSaved = TypeVar("SelfSaved", bound="SavedAlgorithm")


class SavedAlgorithm(OnPolicyAlgorithm):
    """Saving and loading in the interface of Stable-Baselines3."""

    policy: Any
    kind: ClassVar[Kind] = Kind(masks=False, memory=False)
    """Of the policies that it trains."""
    read_to_go_on: ClassVar[tuple[str, ...]] = ()
    """Attributes that are not even read from a file where episodes begin anew."""
    _kept_by_optimizer: Any

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
        write_model(
            path,
            ALGORITHM_FOR[self.kind],
            {name: value for name, value in self._attributes().items() if name not in left_out},
            self.get_parameters(),
            {name: recursive_getattr(self, name) for name in variables},
        )

    @classmethod
    def load(
        cls: type[SelfSaved],
        path: ModelFile,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfSaved:
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
        if force_reset:
            custom_objects = {**(custom_objects or {}), **dict.fromkeys(cls.read_to_go_on)}
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
        model = cls(attributes["policy_class"], env, device=device, _init_setup_model=False)  # type: ignore[call-arg,arg-type]
        vars(model).update(attributes)
        model._setup_model()
        model._restore(file, device)
        return model

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

    def _attributes(self) -> dict[str, Any]:
        """What is saved, if it is not left out."""
        return vars(self)

    def _excluded_save_params(self) -> list[str]:
        """Also what is found anew."""
        return [*super()._excluded_save_params(), *REBUILT, "_kept_by_optimizer"]

    def _restore(self, file: SavedModel, device: th.device | str) -> None:
        """Take the weights of a file, when its attributes have been taken.

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
