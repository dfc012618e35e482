"""Python expressions in hyperparameter files, read without evaluating them.

RL Zoo writes ``policy_kwargs: "dict(net_arch=[64, 64], activation_fn=nn.ReLU)"`` and hands the text to ``eval``. The
same text is read here from its syntax tree: numbers, texts, True, False, None, lists, tuples, dictionaries,
``dict(key=...)``, and classes of ``torch.nn`` and ``torch.optim``. Anything else is refused.
"""

import ast
from typing import Any

from sb3_trpo.zoo.errors import UsageError

MODULES = {"nn": "nn", "th.nn": "nn", "torch.nn": "nn", "th.optim": "optim", "torch.optim": "optim"}


def parse_expression(text: str, name: str) -> Any:
    """The value of ``text``.

    :param name: of the hyperparameter, for the message
    :raises UsageError: for anything but literals, ``dict(...)`` and classes of ``torch.nn`` and ``torch.optim``
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(
            f"{name}={text!r} cannot be read ({reason}): write literals, dict(key=value) and classes such as nn.ReLU"
        ) from None


def format_expression(value: Any) -> str:
    """The text from which `parse_expression`, and RL Zoo, make ``value`` again.

    :raises UsageError: for a value that has no such text
    """
    if isinstance(value, dict):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f"dict({', '.join(f'{key}={format_expression(item)}' for key, item in value.items())})"
        return "{" + ", ".join(f"{key!r}: {format_expression(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_expression, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(format_expression, value))}{',' * (len(value) == 1)})"
    if isinstance(value, type):
        for prefix, module in (("nn", "torch.nn."), ("th.optim", "torch.optim.")):
            if value.__module__.startswith(module):
                return f"{prefix}.{value.__name__}"
    if value is None or isinstance(value, bool | int | float | str):
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
        return {_keyword(keyword): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Attribute):
        return _class(ast.unparse(node.value), node.attr)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _keyword(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("** is not allowed")
    return keyword.arg


def _class(module: str, name: str) -> type:
    """A class of ``torch.nn`` or ``torch.optim``; torch is imported only where one is named."""
    import torch as th

    if module in MODULES:
        found = getattr(getattr(th, MODULES[module]), name, None)
        if isinstance(found, type) and issubclass(found, th.nn.Module | th.optim.Optimizer):
            return found
    raise ValueError(f"{module}.{name} is not a class of torch.nn or torch.optim")
