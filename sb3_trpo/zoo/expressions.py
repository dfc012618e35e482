"""Python expressions in hyperparameter files, read without evaluating them.

RL Zoo writes ``policy_kwargs: "dict(net_arch=[64, 64], activation_fn=nn.ReLU)"`` and hands the text to ``eval``. The
same text is read here from its syntax tree: numbers, texts, True, False, None, lists, tuples, dictionaries,
``dict(key=...)``, classes of ``torch.nn`` and ``torch.optim``, and Stable-Baselines3's ``RMSpropTFLike``. Anything
else is refused.
"""

import ast
import keyword
import math
from typing import Any

from sb3_trpo.zoo.errors import UsageError

MODULES = {"nn": "nn", "th.nn": "nn", "torch.nn": "nn", "th.optim": "optim", "torch.optim": "optim"}
"""Names under which a text may speak of ``torch.nn`` and ``torch.optim``; RL Zoo knows ``nn`` and ``th``."""

LONGEST = 10_000
"""Characters of the longest text that is read: more is no hyperparameter, and deep nesting exhausts the parser."""


def parse_expression(text: str, name: str) -> Any:
    """The value of ``text``.

    :param name: of the hyperparameter, for the message
    :raises UsageError: for anything but literals, ``dict(...)`` and the classes named above
    """
    try:
        if len(text) > LONGEST:
            raise ValueError(f"longer than {LONGEST} characters")
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
        raise UsageError(
            f"{name}={_shortened(repr(text))} cannot be read ({_shortened(reason) or 'nested too deeply'}): "
            "write literals, dict(key=value) and classes such as nn.ReLU"
        ) from None


def format_expression(value: Any) -> str:
    """The text from which `parse_expression`, and RL Zoo, make ``value`` again.

    :raises UsageError: for a value that has no such text
    """
    if isinstance(value, dict):
        if all(_is_keyword_argument(key) for key in value):
            return f"dict({', '.join(f'{key}={format_expression(item)}' for key, item in value.items())})"
        pairs = (f"{format_expression(key)}: {format_expression(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_expression, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(format_expression, value))}{',' * (len(value) == 1)})"
    if isinstance(value, type):
        return _class_name(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return format_expression(value.item())  # of numpy or torch, whose repr is no literal
    if isinstance(value, float) and not math.isfinite(value):
        if not math.isnan(value):
            return "1e999" if value > 0 else "-1e999"  # the shortest literals of infinity
    elif value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise UsageError(f"{value!r} has no text for a hyperparameter file: use numbers, texts, lists, dictionaries")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and not isinstance(node.value, bytes | complex | type(...)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _value(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return _keyword_arguments(node.keywords)
    if isinstance(node, ast.Attribute):
        return _class(ast.unparse(node.value), node.attr)
    if isinstance(node, ast.Name) and node.id == "RMSpropTFLike":
        return _rmsprop()
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _keyword_arguments(keywords: list[ast.keyword]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in keywords:
        if item.arg is None:
            raise ValueError("** is not allowed")
        if item.arg in values:
            raise ValueError(f"{item.arg!r} is given twice")
        values[item.arg] = _value(item.value)
    return values


def _class(module: str, name: str) -> type:
    """A class of ``torch.nn`` or ``torch.optim``; torch is imported only where one is named."""
    if module in MODULES:
        import torch as th

        found = getattr(getattr(th, MODULES[module]), name, None)
        if isinstance(found, type) and issubclass(found, th.nn.Module | th.optim.Optimizer):
            return found
    raise ValueError(f"{module}.{name} is not a class of torch.nn or torch.optim")


def _rmsprop() -> type:
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    return RMSpropTFLike


def _class_name(cls: type) -> str:
    import torch as th

    for prefix, module in (("nn", th.nn), ("th.optim", th.optim)):
        if getattr(module, cls.__name__, None) is cls and issubclass(cls, th.nn.Module | th.optim.Optimizer):
            return f"{prefix}.{cls.__name__}"
    if cls is _rmsprop():
        return "RMSpropTFLike"
    raise UsageError(f"{cls!r} has no text for a hyperparameter file: use classes of torch.nn or torch.optim")


def _is_keyword_argument(key: Any) -> bool:
    """Whether ``dict(key=...)`` can be written: not so for other scripts, which Python normalises, nor keywords."""
    if type(key) is not str or not (key.isascii() and key.isidentifier()):
        return False
    return not keyword.iskeyword(key) and key != "__debug__"


def _shortened(text: str, width: int = 160) -> str:
    return text if len(text) <= width else f"{text[:width]}..."
