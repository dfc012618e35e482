"""Action masks: what they must look like, and asking an environment for them during a rollout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import EXPECTED_METHOD_NAME, get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_trpo.algorithms.steps import Steps
from sb3_trpo.core.activations import Array


class MaskSource(Protocol):
    """Where a rollout's action masks come from."""

    def at(self, step: int) -> Array | None:
        """The masks (E, M) of E environments at ``step`` of the rollout, None where no action is masked."""


class NoMasks:
    """All actions are allowed."""

    def at(self, step: int) -> None:
        """Nothing to mask."""


class EnvironmentMasks:
    """The environments' own masks, checked and noted.

    :param buffer: in whose ``action_masks`` (T, E, M) those of each step are written
    :raises ValueError: when the environment has no masks
    """

    def __init__(self, env: VecEnv, action_space: spaces.Space[Any], buffer: Any):
        check_masking(env)
        self._ask = _quickest_way_to_ask(env)
        self._sizes = option_counts(action_space)
        self._buffer = buffer

    def at(self, step: int) -> Array:
        """Ask the environments.

        :raises ValueError: for masks of another size than the action space has options, or that allow nothing
        """
        masks = as_masks(self._ask(), self._buffer.n_envs, self._sizes)
        refuse_impossible(masks, self._sizes, f" at step {step} of the rollout")
        self._buffer.action_masks[step] = masks
        return masks


@contextmanager
def masks_given(policy: Any, masks: MaskSource, buffer: Any) -> Iterator[None]:
    """Inside the block a call of ``policy`` without masks gets those of the step up to which ``buffer`` is filled.

    A loop that knows nothing of masks, like those of Stable-Baselines3 and RecurrentPPO, then acts by them. The
    environments are asked once for each step: a callback that calls the policy after it does not change its masks.
    """
    asked: list[Array | None] = []

    def give(policy: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        is_of_the_rollout = buffer.pos < buffer.buffer_size and args and len(Steps(args[0])) == buffer.n_envs
        if not is_of_the_rollout or "action_masks" in kwargs:
            return None
        if len(asked) == buffer.pos:
            asked.append(masks.at(buffer.pos))
        return args, {**kwargs, "action_masks": asked[buffer.pos]}

    hook = policy.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def check_masking(env: VecEnv) -> None:
    """Refuse an environment that has no masks.

    :raises ValueError: telling how to give it some
    """
    if not is_masking_supported(env):
        raise ValueError(
            "the environment has no method action_masks(): give it one, wrap it in sb3_contrib's ActionMasker, or "
            "learn without masks by learn(..., use_masking=False)"
        )


def option_counts(space: spaces.Space[Any]) -> tuple[int, ...]:
    """The options of each choice of a discrete action space; a coin is a choice of two."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.flatten())
    assert isinstance(space, spaces.MultiBinary)
    return (2,) * int(np.prod(space.shape))


def as_masks(given: Any, n_rows: int, sizes: Sequence[int]) -> Array:
    """Masks as booleans (n_rows, M).

    :raises ValueError: for anything that does not have one entry for each option
    """
    try:
        given = given.cpu() if isinstance(given, th.Tensor) else given
        return np.asarray(given, dtype=bool).reshape(n_rows, sum(sizes))
    except (ValueError, TypeError) as error:
        shape = "entries of unequal length" if "inhomogeneous" in str(error) else f"shape {np.shape(given)}"
        raise ValueError(
            f"the action masks have {shape}, they must have one entry for each of {sum(sizes)} options "
            f"({' + '.join(map(str, sizes))}) and {n_rows} environment{'s' if n_rows > 1 else ''}"
        ) from error


def refuse_impossible(masks: Array, sizes: Sequence[int], when: str = "") -> None:
    """Refuse masks (E, M) that leave nothing to choose.

    :raises ValueError: naming the environment and ``when``
    """
    starts = np.cumsum([0, *sizes[:-1]])
    possible = np.logical_or.reduceat(masks, starts, axis=-1)
    if possible.all():
        return
    env, choice = (int(number) for number in np.argwhere(~possible)[0])
    of_choice = f" of choice {choice}" if len(sizes) > 1 else ""
    raise ValueError(
        f"the action mask of environment {env}{when} forbids every option{of_choice}: "
        "allow one at least, or end the episode before"
    )


def _quickest_way_to_ask(env: VecEnv) -> Callable[[], Any]:
    """`env_method` looks for the method in every wrapper at every step; here it is looked up once for a rollout."""
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if type(layer).env_method is not VecEnvWrapper.env_method:
            return lambda: get_action_masks(env)
        layer = layer.venv
    if type(layer) is not DummyVecEnv:
        return lambda: get_action_masks(env)
    methods = [one.get_wrapper_attr(EXPECTED_METHOD_NAME) for one in layer.envs]
    return lambda: [method() for method in methods]
