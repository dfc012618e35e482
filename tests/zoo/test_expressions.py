"""Expressions of hyperparameter files: what RL Zoo evaluates is read, and nothing is evaluated."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_trpo.zoo.errors import UsageError
from sb3_trpo.zoo.expressions import LONGEST, format_expression, parse_expression

CLASSES = [th.nn.ReLU, th.nn.Tanh, th.nn.Linear, th.optim.Adam, th.optim.SGD, RMSpropTFLike]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.sampled_from(CLASSES)
)
KEYS = st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.tuples(st.integers(), st.text(max_size=3)))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), inner, max_size=3),
    ),
    max_leaves=12,
)


def as_rl_zoo(text):
    """What RL Zoo's experiment manager makes of a text."""
    return eval(text, {"nn": th.nn, "th": th, "RMSpropTFLike": RMSpropTFLike})


def shape(value):
    """Types and values together: 1, 1.0 and True are equal in Python."""
    if isinstance(value, dict):
        return {"dict": [(shape(key), shape(item)) for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value), repr(value)


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_is_read_again_here_and_by_rl_zoo(value):
    text = format_expression(value)
    assert shape(parse_expression(text, "policy_kwargs")) == shape(value)
    assert shape(as_rl_zoo(text)) == shape(value)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=40), st.text(alphabet="dict(=)[]{}:,.'\"nn*-+1eE \n", max_size=30)))
def test_any_text_is_read_or_refused_in_one_line(text):
    refusal = ""
    try:
        parse_expression(text, "policy_kwargs")
    except UsageError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert not refusal or refusal.startswith("policy_kwargs=")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(net_arch=[64, 64], activation_fn=nn.ReLU)", {"net_arch": [64, 64], "activation_fn": th.nn.ReLU}),
        (" {'a': (1,), 2: None} ", {"a": (1,), 2: None}),
        ("dict(\n  log_std_init=-2,\n  ortho_init=False,\n)", {"log_std_init": -2, "ortho_init": False}),
        ("dict(optimizer_class=torch.optim.SGD)", {"optimizer_class": th.optim.SGD}),
        ("dict(x=+1.5e-3)", {"x": 1.5e-3}),
        ("dict()", {}),
        ("1e999", float("inf")),
    ],
)
def test_texts_mean_what_python_says(text, value):
    assert parse_expression(text, "policy_kwargs") == value


def rl_zoo_texts():
    """Found without importing RL Zoo, which would patch Gymnasium for all tests."""
    package = Path(importlib.util.find_spec("rl_zoo3").origin).parent
    for file in sorted((package / "hyperparams").iterdir()):
        for entry in yaml.safe_load(file.read_text()).values():
            for key in ("policy_kwargs", "replay_buffer_kwargs", "normalize"):
                if isinstance(entry.get(key), str):
                    yield entry[key]


def test_every_text_of_rl_zoos_own_files_is_what_eval_gives():
    texts = set(rl_zoo_texts())
    assert len(texts) > 20
    for text in texts:
        assert parse_expression(text, "policy_kwargs") == as_rl_zoo(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd').read()",
        "dict(a=open('x'))",
        "dict([('a', 1)])",
        "dict(**{'a': 1})",
        "{**{'a': 1}}",
        "[*[1]]",
        "list(range(3))",
        "nn.ReLU()",
        "nn.init.eye_",
        "nn.functional",
        "nn.Module.__init__",
        "nn.__dict__",
        "nn.__class__",
        "th.load",
        "th.hub.load",
        "th.nn.modules.linear.Linear",
        "os.path",
        "().__class__.__bases__",
        "(1).real",
        "[x for x in (1,)]",
        "{x: x for x in (1,)}",
        "(x for x in (1,))",
        "lambda: 0",
        "f'{1}'",
        "1 if True else 2",
        "1 + 1",
        "2 ** 9999999",
        "not True",
        "-True",
        "-'a'",
        "~1",
        "[1][0]",
        "(x := 1)",
        "a",
        "inf",
        "...",
        "b'x'",
        "1j",
        "{1, 2}",
        "{[]: 1}",
        "dict(a=1, a=2)",
        "dict(class=1)",
        "await x",
        "yield",
        "x = 1",
        "1; 2",
        "",
        "(",
        "\0",
        "9" * 5000,
    ],
)
def test_everything_else_is_refused_in_one_line_that_quotes_it(text):
    with pytest.raises(UsageError) as refused:
        parse_expression(text, "policy_kwargs")
    message = str(refused.value)
    assert message.startswith(f"policy_kwargs={repr(text)[:40]}")
    assert "nn.ReLU" in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "-" * 9000 + "1", "(" * 300 + ")" * 300, "1" + "+1" * 4000])
def test_deep_nesting_is_refused(text):
    with pytest.raises(UsageError, match="cannot be read"):
        parse_expression(text, "policy_kwargs")


def test_a_text_longer_than_any_hyperparameter_is_refused():
    with pytest.raises(UsageError, match="longer than"):
        parse_expression("[" + "1," * LONGEST + "]", "policy_kwargs")


def test_numbers_of_numpy_and_torch_are_written_as_pythons():
    given_value = {"a": np.float64(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.str_("x"), "e": th.tensor(2)}
    text = format_expression(given_value)
    assert text == "dict(a=0.5, b=3, c=True, d='x', e=2)"


@pytest.mark.parametrize("value", [float("nan"), object(), lambda x: x, int, type("Own", (), {}), {1, 2}, b"x", 1j])
def test_a_value_without_a_text_is_refused(value):
    with pytest.raises(UsageError, match="has no text for a hyperparameter file"):
        format_expression({"a": value})


def test_keys_that_are_no_arguments_are_written_in_braces():
    assert format_expression({"class": 1}) == "{'class': 1}"
    assert format_expression({"ﬁ": 1}) == "{'ﬁ': 1}"  # Python reads it as "fi" where it is an argument
    assert format_expression({1: 2}) == "{1: 2}"


def test_torch_is_not_imported_for_numbers():
    code = (
        "import sys; from sb3_trpo.zoo.expressions import parse_expression as parse; "
        "parse('dict(a=[1])', 'x'); print('torch' in sys.modules)"
    )
    package = (
        "import sys, types; p = types.ModuleType('sb3_trpo'); p.__path__ = [sys.argv[1]]; sys.modules['sb3_trpo'] = p;"
    )
    path = str(Path(importlib.util.find_spec("sb3_trpo").origin).parent)
    output = subprocess.run([sys.executable, "-c", package + code, path], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"
