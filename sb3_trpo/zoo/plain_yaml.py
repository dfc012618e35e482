"""YAML of plain values, the same to this package and to RL Zoo.

RL Zoo reads YAML 1.1 with PyYAML's safe loader, in which ``1e6`` is a text and the second of two equal keys wins. Here
``1e6`` is a number, as in YAML 1.2, and a key given twice is an error; what is written means the same to both.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from sb3_trpo.zoo.errors import UsageError

EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""Numbers of YAML 1.2 that are texts in YAML 1.1."""

FLOAT, MERGE = "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge"


def read_yaml(path: str | Path) -> Any:
    """The contents of a YAML file of plain values.

    :raises UsageError: when it cannot be read, or holds tags that build objects, a key twice, or no valid YAML
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no YAML of plain values: {error}") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    :raises ValueError: in one line, with the number of the line where it is known
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except _INVALID as error:
        raise ValueError(_reason(error)) from error


def format_yaml(value: Any) -> str:
    """The text of plain values: keys in their order, no anchors."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110))


_INVALID = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for a text: its own errors, and those of conversions such as ``!!int x`` and ``!!bool x``."""


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        return f"{' '.join(error.problem.split())}{f' in line {mark.line + 1}' if mark else ''}"
    return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Here and not when values are made: by then the keys of ``<<`` stand among the others.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))  # the text "1e6" is quoted
