"""Files of saved models: which class saved them, and the attributes that the loaded model is to have."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.contrib import current_observation_space, translation
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, Kind, kind_of
from sb3_trpo.algorithms.slots import SLOTS
from sb3_trpo.saving import weights
from sb3_trpo.saving.errors import FileError, UntrustedError
from sb3_trpo.saving.model import VARIABLES, SavedModel

PPO = {
    Kind(masks=False, memory=False): "stable_baselines3.PPO",
    Kind(masks=True, memory=False): "sb3_contrib.MaskablePPO",
    Kind(masks=False, memory=True): "sb3_contrib.RecurrentPPO",
}
"""The classes of PPO that train policies of a kind, whose files are taken for ours most easily."""

REBUILT = {"lr_schedule"}
"""Attributes that a loaded model makes anew from others, and that older files hold as functions."""

PER_ENVIRONMENT = {"noise_process", "_last_lstm_states"}
"""Attributes in a state of training with a row for each environment: another number of them begins with new ones."""


def attributes_of(
    file: SavedModel,
    cls: type,
    kind: Kind,
    env: VecEnv | None,
    custom_objects: Mapping[str, Any] | None,
    kwargs: Mapping[str, Any],
    trust: bool,
) -> dict[str, Any]:
    """The attributes of the model in ``file``, with ``kwargs`` among them.

    :param cls: that is to load it
    :param kind: of the policies that it trains
    :param env: to go on in
    :param custom_objects: values in place of those of the file
    :param trust: unpickle what is pickled
    :raises ValueError: for a model of another class, telling which, or of another environment; and for what cannot be
        read, or not without trust
    """
    custom_objects, kwargs = dict(custom_objects or {}), dict(kwargs)
    _refuse_other_classes(file, cls.__name__, kind, custom_objects, trust)
    given = custom_objects.keys() | kwargs.keys()
    for name, slot in SLOTS.items():
        if {name, f"{name}_kwargs"} & given:
            kwargs.setdefault(slot.attribute, None)  # build the new one instead of restoring the saved one
    replaced = REBUILT | (kwargs.keys() - {"policy_kwargs"})
    attributes = file.decoded([name for name in file.attributes if name not in replaced], trust, custom_objects)
    forgotten = {slot.attribute for slot in SLOTS.values()} & kwargs.keys()
    if env is not None and env.num_envs != attributes.get("n_envs"):
        forgotten |= PER_ENVIRONMENT
    _forget(attributes.get("_training_state"), forgotten)
    _refuse_strange_attributes(file, cls, attributes)
    is_contribs = "cg_tolerance" not in file.attributes
    if is_contribs:
        kwargs = {**translation(attributes, cls.__name__, given), **kwargs}
    if env is not None:
        if is_contribs and "observation_space" not in custom_objects:
            attributes.update(current_observation_space(attributes, env))
        _refuse_other_environments(file, attributes, env)
    return {**attributes, "policy_kwargs": _policy_kwargs(file, attributes, kwargs), **kwargs}


def _forget(training_state: Any, names: Iterable[str]) -> None:
    """Take attributes out of a state of training, if it is one, that the loaded model is to have from elsewhere."""
    saved = training_state.get("attributes") if isinstance(training_state, dict) else None
    if isinstance(saved, dict):
        for name in names:
            saved.pop(name, None)


def _policy_kwargs(file: SavedModel, attributes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the file, in the form of today.

    :raises ValueError: when others are given
    """
    policy_kwargs = {name: value for name, value in (attributes.get("policy_kwargs") or {}).items() if name != "device"}
    net_arch = policy_kwargs.get("net_arch")
    if net_arch and isinstance(net_arch, list) and isinstance(net_arch[0], dict):
        policy_kwargs["net_arch"] = net_arch[0]  # as Stable-Baselines3 once had it
    if given.get("policy_kwargs", policy_kwargs) != policy_kwargs:
        raise ValueError(
            f"policy_kwargs={given['policy_kwargs']} are not those of {file.name}, which are {policy_kwargs}: a saved "
            "policy keeps its architecture"
        )
    return policy_kwargs


def parameters_of(
    file: SavedModel, names: list[str], policy: th.nn.Module, device: th.device | str
) -> dict[str, dict[str, Any]]:
    """The state dictionaries in ``file``.

    :param names: those that a model may have
    :param policy: whose buffers may be infinite, such as those of an attention mask
    :raises FileError: for weights that are not finite, and for what is none
    """
    if "policy" not in file.tensors:
        raise FileError(f"{file.name} is not a saved model: it has no entry policy.pth")
    buffers = {name for name, _ in policy.named_buffers()}
    found = {}
    for name in file.tensors.keys() - {VARIABLES}:
        if name not in names:
            raise FileError(f"{file.name} is refused: it has an entry {name}.pth, which no such model has")
        found[name] = file.state(name, device)
        if not isinstance(found[name], dict):
            raise FileError(f"{file.name}: entry {name}.pth is no state dictionary")
        bad = weights.not_finite(found[name], may_be_infinite=buffers)
        if bad is not None:
            raise FileError(f"{file.name} is refused: NaN or infinite weights in {name}.pth: {bad}")
    return found


def _refuse_strange_attributes(file: SavedModel, cls: type, attributes: Mapping[str, Any]) -> None:
    for name in attributes:
        if name.startswith("__") or callable(getattr(cls, name, None)):
            raise FileError(f"{file.name} is refused: its entry {name!r} would replace a method of {cls.__name__}")
    for name in ("observation_space", "action_space"):
        if not isinstance(attributes.get(name), spaces.Space):
            raise FileError(f"{file.name} is not a saved model: it has no {name}")


def _refuse_other_environments(file: SavedModel, attributes: Mapping[str, Any], env: VecEnv) -> None:
    try:
        check_for_correct_spaces(env, attributes["observation_space"], attributes["action_space"])
    except ValueError as error:
        raise FileError(f"{file.name} holds a model for another environment: {error}") from error


def _refuse_other_classes(
    file: SavedModel, algorithm: str, kind: Kind, custom_objects: Mapping[str, Any], trust: bool
) -> None:
    saved_by = _class_that_saved(file, custom_objects, trust)
    if saved_by != f"sb3_trpo.{ALGORITHM_FOR[kind]}":
        held, loader = (
            ("", "the class that saved it") if saved_by is None else (f", but a {saved_by.split('.')[1]}", saved_by)
        )
        raise FileError(f"{file.name} does not hold a {algorithm}{held}: load it with {loader}")


def _class_that_saved(file: SavedModel, custom_objects: Mapping[str, Any], trust: bool) -> str | None:
    """Package and name of the class, None for one that is not known here."""
    if file.algorithm is not None:
        return f"sb3_trpo.{file.algorithm}"
    names = file.attributes.keys()
    is_trust_region = {"target_kl", "cg_damping", "line_search_max_iter"} <= names
    try:
        policy = file.decoded({"policy_class"} & names, trust, custom_objects).get("policy_class")
    except UntrustedError:
        if is_trust_region:
            raise
        return None
    if not isinstance(policy, type):
        return None
    if is_trust_region:
        return f"sb3_trpo.{ALGORITHM_FOR[kind_of(policy)]}"
    return PPO.get(kind_of(policy)) if {"clip_range", "n_epochs"} <= names else None
