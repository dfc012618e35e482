"""JSON schema of hyperparameter files: editors complete keys, show what they mean and mark what is misspelt.

It is generated: names, types and defaults from the constructor's signature, ranges from the checks of its arguments,
descriptions from its docstring, and from `ENVIRONMENT_KEYS` what belongs to the environment. The shipped one is
written by ``python -m sb3_trpo.zoo.schema hyperparams``: ``trpo.schema.json`` and one for each other algorithm.
"""

import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_trpo.algorithms.arguments import CHECKS, check_schedule
from sb3_trpo.algorithms.slots import SLOTS
from sb3_trpo.zoo.algorithms import OURS, algorithm_class, argument_names
from sb3_trpo.zoo.files import write_text
from sb3_trpo.zoo.hyperparams import CLASSES, DICTIONARIES, ENVIRONMENT_KEYS

Schema = dict[str, Any]

NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
LINEAR: Schema = {"type": "string", "pattern": f"^lin_{NUMBER}$", "description": "falls linearly to 0: lin_0.001"}
CLASS: Schema = {"type": "string", "pattern": r"^\w+(\.\w+)+$", "description": "module.Class"}
EXPRESSION: Schema = {"type": "string", "description": "a Python expression: dict(key=value)"}
OBJECT: Schema = {"type": "object"}
OURS_OR_CLASS: Schema = {"type": "string", "pattern": r"^\w+(\.\w+)*$", "description": "module.Class, or one of ours"}
COUNT: Schema = {"type": "number", "minimum": 1, "multipleOf": 1}  # a number: n_timesteps: 1e6


def _listed(name: Schema) -> Schema:
    """A class, one with its arguments, or a list of them; ``name`` is what the class is called by."""
    named = {
        "anyOf": [name, {"type": "object", "minProperties": 1, "maxProperties": 1}],
        "description": f"{name['description']}, or {{class: {{argument: value}}}}",
    }
    return {"anyOf": [*named["anyOf"], {"type": "array", "items": named}, {"type": "null"}]}


ENVIRONMENT: dict[str, Schema] = {
    "n_timesteps": COUNT,
    "n_envs": COUNT,
    "frame_stack": COUNT,
    "normalize": {"anyOf": [{"type": ["boolean", "null"]}, OBJECT, EXPRESSION]},
    "env_kwargs": {"anyOf": [OBJECT, EXPRESSION]},
    "monitor_kwargs": {"anyOf": [OBJECT, EXPRESSION]},
    "env_wrapper": _listed(CLASS),
    "vec_env_wrapper": _listed(CLASS),
    "callback": _listed(OURS_OR_CLASS),
}
"""What the values of `ENVIRONMENT_KEYS` look like."""


def hyperparams_schema(algo: str = OURS[0]) -> Schema:
    """Schema of the hyperparameter files of ``algo``."""
    algorithm = algorithm_class(algo)
    meanings = _meanings(algorithm)
    parameters = inspect.signature(algorithm).parameters
    hints = typing.get_type_hints(algorithm.__init__)
    properties = {name: {**schema, **_described(ENVIRONMENT_KEYS[name])} for name, schema in ENVIRONMENT.items()}
    for name in argument_names(algo):
        default = parameters[name].default
        properties[name] = {
            **_argument(name, hints[name], list(getattr(algorithm, "policy_aliases", {}))),
            **_described(meanings.get(name, "")),
            **({} if default is inspect.Parameter.empty else {"default": default}),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Hyperparameters of {algorithm.__name__}",
        "description": "Environment ids, with default for the others and atari for those of ALE, and their entries",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/entry"},
        "$defs": {"entry": {"type": "object", "additionalProperties": False, "properties": properties}},
    }


def schema_text(algo: str = OURS[0]) -> str:
    """The schema as it stands in its file."""
    return json.dumps(hyperparams_schema(algo), indent=2, ensure_ascii=False) + "\n"


def schema_name(algo: str) -> str:
    """Name of the file, beside the hyperparameter file."""
    return f"{algo}.schema.json"


def main(arguments: list[str] | None = None) -> int:
    """Write the schema of each of our algorithms into the folder that is named, or print that of the first."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        print(schema_text(), end="")
        return 0
    for algo in OURS:
        write_text(Path(given[0]) / schema_name(algo), schema_text(algo))
    return 0


def _argument(name: str, hint: Any, policies: list[str]) -> Schema:
    """Schema of a constructor argument: one alternative for each form in which a file can hold it."""
    aliases = {"policy": policies, **{slot: list(SLOTS[slot].aliases) for slot in SLOTS}}
    options = [typing.get_origin(hint) or hint]
    if options[0] in (typing.Union, types.UnionType):
        options = [typing.get_origin(option) or option for option in typing.get_args(hint)]
    forms: list[Schema] = []
    if name in CLASSES:
        forms += [{"enum": aliases[name]}] if name in aliases else []
        forms.append(CLASS)
    elif name in DICTIONARIES:
        forms += [OBJECT, EXPRESSION]
    elif name == "cg_preconditioner":
        forms.append({"enum": list(CHECKS[name].keywords["choices"])})  # type: ignore[attr-defined]  # a partial
    else:
        for option, kind in ((bool, "boolean"), (int, "integer"), (float, "number")):
            if option in options:
                forms.append({"type": kind, **_range(CHECKS.get(name))})
        if Callable in options:
            forms.append(LINEAR)
        if not forms:
            raise TypeError(f"{name}: {hint} has no form in a file yet")
    if type(None) in options and name != "cg_preconditioner":
        forms.append({"type": "null"})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _range(check: Any) -> Schema:
    """``minimum`` and the like, as far as the check of an argument tells them."""
    keywords = getattr(check, "keywords", {})
    if getattr(check, "func", check) is check_schedule:
        return {"exclusiveMinimum" if keywords.get("positive") else "minimum": 0}
    if "low" in keywords:
        return {"minimum": keywords["low"]}
    interval = re.fullmatch(r"in ([\[(])(\S+), (\S+)([\])])", keywords.get("allowed", ""))
    if interval is None:
        return {}
    opening, low, high, closing = interval.groups()
    return {
        "minimum" if opening == "[" else "exclusiveMinimum": float(low),
        "maximum" if closing == "]" else "exclusiveMaximum": float(high),
    }


def _meanings(algorithm: type) -> dict[str, str]:
    """``:param name: meaning`` of the docstrings of a class and its ancestors, the nearest first."""
    found: dict[str, str] = {}
    for cls in algorithm.__mro__:
        text = inspect.cleandoc(cls.__doc__ or "")
        for name, meaning in re.findall(r"^:param (\w+):((?:.*\n?)(?:^[ \t]+.*\n?)*)", text, re.MULTILINE):
            found.setdefault(name, " ".join(meaning.replace("``", "").split()))
    return found


def _described(meaning: str) -> Schema:
    return {"description": meaning} if meaning else {}


if __name__ == "__main__":
    sys.exit(main())
