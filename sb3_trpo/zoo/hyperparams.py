"""Hyperparameter files in RL Zoo's format, read safely.

A file maps environment ids to entries; ``default`` serves the others, ``atari`` all of ALE. An entry holds constructor
arguments of the algorithm and the keys of `ENVIRONMENT_KEYS`. ``lin_0.001`` is a schedule that falls linearly from
0.001 to 0, and ``policy_kwargs: "dict(net_arch=[64, 64], activation_fn=nn.ReLU)"`` is read as in
`sb3_trpo.zoo.expressions`. Differs from RL Zoo in that nothing is evaluated, tags that build Python objects and keys
given twice are refused, a misspelt key is refused with the nearest name, and ``1e6`` is a number.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_trpo.zoo.algorithms import OURS, argument_names
from sb3_trpo.zoo.errors import UsageError, did_you_mean
from sb3_trpo.zoo.expressions import format_expression, parse_expression

ENVIRONMENT_KEYS = {
    "n_timesteps": "environment steps to train for",
    "n_envs": "environments stepped side by side",
    "normalize": "VecNormalize: true, false, or its arguments, such as {norm_obs: true, norm_reward: false}",
    "frame_stack": "observations stacked into one",
    "env_kwargs": "arguments of the environment",
    "monitor_kwargs": "arguments of Stable-Baselines3's Monitor",
    "env_wrapper": "class, {class: arguments}, or a list of them, wrapped around each environment",
    "vec_env_wrapper": "the same, around the vectorised environment",
    "callback": "the same, of training callbacks",
}
"""Keys of an entry that are no constructor arguments of the algorithm, and what they mean."""

EXPRESSIONS = ("policy_kwargs", "normalize", "monitor_kwargs", "env_kwargs", "rollout_buffer_kwargs")
"""Keys whose text is a Python expression, as in RL Zoo."""

Hyperparams = dict[str, Any]
"""One entry: plain values as in the file, or the objects they stand for (classes, schedules)."""


def hyperparams_file(algo: str) -> Path:
    """The file that this package ships for ``algo``: in the installed package, or beside it in a checkout.

    :raises UsageError: when none is shipped
    """
    package = Path(__file__).resolve().parent.parent
    name = f"{algo}.yml"
    for folder in (package / "hyperparams", package.parent / "hyperparams"):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"no hyperparameters are shipped for {algo!r}, only for {', '.join(OURS)}: give a file")


def load_hyperparams(
    algo: str, env_id: str, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Hyperparams:
    """The entry of an environment, else ``atari`` for ALE's, else ``default``.

    :param algo: short name or ``module:Class``, see `sb3_trpo.zoo.algorithms`
    :param env_id: id of a registered environment
    :param file: a YAML file; the shipped one by default
    :param overrides: keys to set on top
    :return: checked, in the terms of the file
    :raises UsageError: for a file that cannot be read, an unknown key, or a value that cannot be used
    """
    path = Path(file) if file is not None else hyperparams_file(algo)
    entries = read_entries(path)
    names = [env_id, *(["atari"] if env_id.startswith("ALE/") or "NoFrameskip" in env_id else []), "default"]
    found = next((name for name in names if name in entries), None)
    if found is None:
        raise UsageError(f"{path} has no entry for {env_id!r} and no default one{did_you_mean(env_id, entries)}")
    hyperparams = {**entries[found], **(overrides or {})}
    check_hyperparams(algo, hyperparams, f"{path}, entry {found}")
    return hyperparams


def read_entries(path: str | Path) -> dict[str, Hyperparams]:
    """All entries of a file, as they stand there.

    :raises UsageError: when it cannot be read, is no valid YAML, uses tags, or holds anything but entries
    """
    entries = read_yaml(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UsageError(f"{path} must map environment ids to entries of 'key: value'")
    return {str(name): entry for name, entry in entries.items()}


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file of plain values.

    :raises UsageError: when it cannot be read, or holds tags, a key twice, or no valid YAML
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_PlainLoader)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace(f'in "{path}"', "").split())
        raise UsageError(f"{path} is no YAML of plain values: {reason}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, or RL Zoo's ``key:value``; the value as it would stand in a file.

    :raises UsageError: for a text without key or value
    """
    key, separator, value = re.match(r"(\w*)([=:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if not (key and separator and value):
        raise UsageError(f"hyperparameter {text!r} must be written key=value, such as target_kl=0.02")
    try:
        return key, yaml.load(value, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"hyperparameter {text!r}: {' '.join(str(error).split())}") from error


def check_hyperparams(algo: str, hyperparams: Mapping[str, Any], where: str) -> None:
    """Refuse unknown keys and values that the algorithm cannot use, before anything is built.

    :param where: where they come from, for the message
    """
    known = {*argument_names(algo), *ENVIRONMENT_KEYS}
    for key in hyperparams:
        if key not in known:
            raise UsageError(f"{where}: hyperparameter {key!r} is unknown to {algo}{did_you_mean(key, known)}")
    for key, low in (("n_timesteps", 1), ("n_envs", 1), ("frame_stack", 1)):
        value = hyperparams.get(key, low)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low or value != int(value):
            raise UsageError(f"{where}: {key}={value!r} must be a whole number >= {low}")
    if not isinstance(hyperparams.get("policy", "MlpPolicy"), str | type):
        raise UsageError(f"{where}: policy={hyperparams['policy']!r} must be a name such as MlpPolicy")
    normalize_kwargs(hyperparams)
    arguments = model_arguments(hyperparams)
    if algo in OURS:
        from sb3_trpo.algorithms.arguments import check_arguments

        try:
            check_arguments(arguments)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None


def model_arguments(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the algorithm, policy included: schedules and expressions are made objects."""
    arguments = {key: _value(key, value) for key, value in hyperparams.items() if key not in ENVIRONMENT_KEYS}
    return {"policy": "MlpPolicy", **arguments}


def normalize_kwargs(hyperparams: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of VecNormalize, its discount factor that of the algorithm; None where it is not asked for."""
    wanted = _value("normalize", hyperparams.get("normalize", False))
    if not isinstance(wanted, bool | dict):
        raise UsageError(f"normalize={wanted!r} must be true, false, or arguments such as {{norm_reward: false}}")
    if wanted is False:
        return None
    gamma = {"gamma": hyperparams["gamma"]} if "gamma" in hyperparams else {}
    return {**gamma, **(wanted if isinstance(wanted, dict) else {})}


def dictionary(hyperparams: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The arguments that stand under ``key``, none by default."""
    value = _value(key, hyperparams.get(key) or {})
    if not isinstance(value, dict):
        raise UsageError(f"{key}={value!r} must be arguments such as {{name: value}}")
    return value


def format_entry(env_id: str, hyperparams: Mapping[str, Any]) -> str:
    """YAML of one entry, ready for a hyperparameter file of this package or of RL Zoo."""
    return str(yaml.safe_dump({env_id: plain(hyperparams)}, sort_keys=False, width=110))


def plain(hyperparams: Mapping[str, Any]) -> Hyperparams:
    """The same entry in plain values: classes and schedules become the texts that stand for them."""
    return {key: _plain(key, value) for key, value in hyperparams.items()}


def _plain(key: str, value: Any) -> Any:
    from stable_baselines3.common.utils import LinearSchedule

    if isinstance(value, LinearSchedule) and value.end == 0 and value.end_fraction == 1:
        return f"lin_{value.start!r}"
    if key in EXPRESSIONS and isinstance(value, dict):
        return format_expression(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return value.item() if hasattr(value, "item") else value


def _value(key: str, value: Any) -> Any:
    """What a plain value of a file stands for."""
    if not isinstance(value, str):
        return value
    if key in EXPRESSIONS:
        return parse_expression(value, key)
    if value.startswith("lin_"):
        from stable_baselines3.common.utils import LinearSchedule

        try:
            return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        except ValueError:
            raise UsageError(f"{key}={value!r} must end in a number, such as lin_0.001") from None
    return value


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Plain values only; the numbers of YAML 1.2, ``1e6`` among them; a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
