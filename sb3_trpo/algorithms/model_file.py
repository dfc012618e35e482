"""Files of saved models: which class saved them, and what is to be changed when they are loaded."""

import io
import json
import pathlib
import zipfile
from typing import Any, TypeAlias

from stable_baselines3.common.save_util import json_to_data, open_path
from stable_baselines3.common.vec_env import VecEnv

from sb3_trpo.algorithms.contrib import current_observation_space, translation
from sb3_trpo.algorithms.policies import ALGORITHM_FOR, Kind, kind_of

ModelFile: TypeAlias = str | pathlib.Path | io.BufferedIOBase

PPO = {
    Kind(masks=False, memory=False): "stable_baselines3.PPO",
    Kind(masks=True, memory=False): "sb3_contrib.MaskablePPO",
    Kind(masks=False, memory=True): "sb3_contrib.RecurrentPPO",
}
"""The classes of PPO that train policies of a kind, whose files are taken for ours most easily."""


def prepare_loading(
    path: ModelFile,
    algorithm: str,
    kind: Kind,
    env: VecEnv | None,
    custom_objects: dict[str, Any] | None,
    kwargs: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``custom_objects`` and further arguments with which Stable-Baselines3 is to load the model at ``path``.

    :param algorithm: the name of the class that is to load it
    :param kind: of the policies that it trains
    :raises ValueError: for a model of another class, telling which, and for what is no model at all
    """
    text = _data(path)
    names = json.loads(text).keys()
    custom_objects, kwargs = dict(custom_objects or {}), dict(kwargs)
    saved_by = _class_that_saved(text, custom_objects)
    if saved_by is None and "cg_tolerance" in names:
        raise ValueError(
            f"the policy class of {path!s} cannot be imported: make it importable where it was, or pass "
            "custom_objects={'policy_class': ...}"
        )
    if saved_by != f"sb3_trpo.{ALGORITHM_FOR[kind]}":
        held, loader = (
            ("", "the class that saved it") if saved_by is None else (f", but a {saved_by.split('.')[1]}", saved_by)
        )
        raise ValueError(f"{path!s} does not hold a {algorithm}{held}: load it with {loader}")
    given = custom_objects.keys() | kwargs.keys()
    for slot, built in (("radius", "radius_controller"), ("critic", "critic_regression")):
        if {slot, f"{slot}_kwargs"} & given:
            kwargs.setdefault(built, None)  # build the new one instead of restoring the saved one
    if "cg_tolerance" not in names:  # saved by sb3-contrib
        settings = json_to_data(text, custom_objects)
        kwargs = {**translation(settings, algorithm, given), **kwargs}
        if env is not None:
            custom_objects = {**current_observation_space(settings, env), **custom_objects}
    return custom_objects, kwargs


def _class_that_saved(text: str, custom_objects: dict[str, Any]) -> str | None:
    """Package and name of the class, None for one that is not known here."""
    entries = json.loads(text)
    policy = json_to_data(json.dumps({"policy_class": entries.get("policy_class")}), custom_objects).get("policy_class")
    if not isinstance(policy, type):
        return None
    if {"target_kl", "cg_damping", "line_search_max_iter"} <= entries.keys():
        return f"sb3_trpo.{ALGORITHM_FOR[kind_of(policy)]}"
    return PPO.get(kind_of(policy)) if {"clip_range", "n_epochs"} <= entries.keys() else None


def _data(path: ModelFile) -> str:
    """The JSON entry of the zip, read without closing a file that the caller opened."""
    file = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.read("data").decode()
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path!s} is not a saved model: {error}") from error
    finally:
        if file is path:
            file.seek(0)
        else:
            file.close()
