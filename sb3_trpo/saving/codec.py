"""Values as JSON, without pickle.

None, booleans, integers, floats, texts, lists and dictionaries with texts as keys stand as they are; everything else
as a dictionary with one key that begins with a colon, such as ``{":tuple": [1, 2]}``. Arrays and bytes are base64. What
has no form of its own here is pickled, for a reader who trusts the file: ``{":type:": ..., ":serialized:": ...}``, the
form that Stable-Baselines3 gives to every value that is not JSON.
"""

import base64
import binascii
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch as th

from sb3_trpo.saving import allowed
from sb3_trpo.saving.errors import MalformedError, NotAllowedError

PICKLED = ":serialized:"

BIT_GENERATORS = {
    cls.__name__: cls
    for cls in (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
}

Unpickle = Callable[[bytes], Any]
"""What makes a value of a pickle, or refuses to."""


def encode(value: Any) -> Any:
    """A value as JSON.

    :raises Exception: whatever cloudpickle raises for what cannot be pickled
    """
    kind = type(value)
    if kind in (type(None), bool, int, float, str):
        return value
    if kind is list:
        return [encode(part) for part in value]
    if kind is dict and all(type(key) is str and not key.startswith(":") for key in value):
        return {key: encode(part) for key, part in value.items()}
    if kind in _ENCODERS:
        tag, form = _ENCODERS[kind]
        return {tag: form(value)}
    return _encode_object(value)


def decode(form: Any, unpickle: Unpickle) -> Any:
    """The value of what `encode` made.

    :param unpickle: what is done with pickles
    :raises MalformedError: when it is no such form, or names what is not allowed
    """
    if isinstance(form, list):
        return [decode(part, unpickle) for part in form]
    if not isinstance(form, dict):
        return form
    if PICKLED in form:
        try:
            return unpickle(to_bytes(form[PICKLED]))
        except NotAllowedError as error:
            raise NotAllowedError(f"{str(form.get(':type:'))[:100]}: {error}") from error
    if len(form) == 1:
        ((tag, content),) = form.items()
        if tag in _DECODERS:
            try:
                return _DECODERS[tag](content, unpickle)
            except MalformedError:
                raise
            except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
                raise MalformedError(f"{tag!r} is malformed: {error}") from error
    return {key: decode(part, unpickle) for key, part in form.items()}


def to_text(content: bytes) -> str:
    """Base64."""
    return base64.b64encode(content).decode("ascii")


def to_bytes(text: Any) -> bytes:
    """Of base64, in which line breaks may stand.

    :raises MalformedError: when it is none
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (AttributeError, binascii.Error, ValueError) as error:
        raise MalformedError(f"no base64: {error}") from error


def plain_dtype(text: Any) -> np.dtype[Any]:
    """A dtype of numbers or text: one without objects, fields or parts.

    :raises MalformedError: when it is another
    """
    if not (isinstance(text, str) and re.fullmatch(r"[<>|=]?[biufcSU]\d{0,9}", text)):
        raise MalformedError(f"dtype {text!r} is none of numbers or text")
    return np.dtype(text)


def array(dtype: np.dtype[Any], shape: Any, content: bytes, order: Any = "C") -> np.ndarray:
    """An array of its bytes, which must be as many as the shape asks for."""
    return np.frombuffer(content, dtype).reshape(tuple(shape), order=order).copy(order=order)


def bit_generator(state: dict[str, Any], sequence: np.random.SeedSequence | None) -> np.random.BitGenerator:
    """A bit generator in a state, with the seed sequence that `numpy.random.Generator.spawn` needs, if it is known."""
    made: Any = BIT_GENERATORS[state["bit_generator"]](sequence if sequence is not None else 0)
    made.state = state
    return made  # type: ignore[no-any-return]


def seed_sequence(entropy: Any, spawn_key: Any, pool_size: int, n_children_spawned: int) -> np.random.SeedSequence:
    """A seed sequence in a state.

    :raises MalformedError: for a pool that nobody needs
    """
    if not 4 <= pool_size <= 1024:
        raise MalformedError(f"a seed sequence has a pool of {pool_size}")
    return np.random.SeedSequence(
        entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=n_children_spawned
    )


def _encode_object(value: Any) -> Any:
    """What is recognised by more than its type; a pickle in the end."""
    if isinstance(value, np.generic) and _is_plain(value.dtype):
        return {":scalar": [value.dtype.str, to_text(value.tobytes())]}
    if isinstance(value, np.dtype) and _is_plain(value):
        return {":dtype": value.str}
    kind = type(value)
    if kind is np.ndarray and _is_plain(value.dtype):
        return {":array": _array(value)}
    if kind is th.Tensor and value.layout is th.strided and value.dtype is not th.bfloat16:
        return {":tensor": _array(value.detach().cpu().numpy())}
    if allowed.name_of(value):
        return {":class": allowed.name_of(value)}
    name = allowed.name_of(kind)
    if name and allowed.may_be_built(*name):
        return {":object": [*name, encode(list(value) if isinstance(value, tuple) else vars(value))]}
    return {":type:": str(kind), PICKLED: to_text(cloudpickle.dumps(value))}


def _is_plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufcSU" and dtype.names is None


def _array(value: np.ndarray) -> list[Any]:
    return [value.dtype.str, list(value.shape), to_text(value.tobytes())]


def _from_array(content: list[Any]) -> np.ndarray:
    dtype, shape, text = content
    return array(plain_dtype(dtype), shape, to_bytes(text))


def _generator(value: np.random.Generator) -> Any:
    sequence = value.bit_generator.seed_seq
    known = type(sequence) is np.random.SeedSequence
    return encode([value.bit_generator.state, dict(sequence.state) if known else None])  # type: ignore[attr-defined]


def _from_generator(content: Any, unpickle: Unpickle) -> np.random.Generator:
    state, sequence = decode(content, unpickle)
    return np.random.Generator(bit_generator(state, seed_sequence(**sequence) if sequence else None))


def _random_state(value: np.random.RandomState) -> Any:
    return encode(value.get_state(legacy=False))


def _from_random_state(content: Any, unpickle: Unpickle) -> np.random.RandomState:
    state = decode(content, unpickle)
    made = np.random.RandomState(BIT_GENERATORS[state["bit_generator"]](0))
    made.set_state(state)
    return made


def _from_torch(content: Any) -> th.dtype:
    dtype = getattr(th, content, None)
    if not isinstance(dtype, th.dtype):
        raise MalformedError(f"torch has no dtype {content!r}")
    return dtype


def _parts(value: Any) -> list[Any]:
    return [encode(part) for part in value]


def _pairs(value: Any) -> list[Any]:
    return [[encode(key), encode(part)] for key, part in value.items()]


def _from_pairs(content: Any, unpickle: Unpickle) -> list[tuple[Any, Any]]:
    return [(decode(key, unpickle), decode(part, unpickle)) for key, part in content]


_ENCODERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    tuple: (":tuple", _parts),
    set: (":set", _parts),
    frozenset: (":frozenset", _parts),
    dict: (":dict", _pairs),
    OrderedDict: (":ordered", _pairs),
    deque: (":deque", lambda value: [_parts(value), value.maxlen]),
    bytes: (":bytes", to_text),
    bytearray: (":bytearray", to_text),
    complex: (":complex", lambda value: [value.real, value.imag]),
    th.dtype: (":torch", lambda value: str(value).removeprefix("torch.")),
    th.device: (":device", str),
    th.Size: (":size", list),
    np.random.Generator: (":generator", _generator),
    np.random.RandomState: (":random_state", _random_state),
}

_DECODERS: dict[str, Callable[[Any, Unpickle], Any]] = {
    ":tuple": lambda content, unpickle: tuple(decode(part, unpickle) for part in content),
    ":set": lambda content, unpickle: {decode(part, unpickle) for part in content},
    ":frozenset": lambda content, unpickle: frozenset(decode(part, unpickle) for part in content),
    ":dict": lambda content, unpickle: dict(_from_pairs(content, unpickle)),
    ":ordered": lambda content, unpickle: OrderedDict(_from_pairs(content, unpickle)),
    ":deque": lambda content, unpickle: deque((decode(part, unpickle) for part in content[0]), content[1]),
    ":bytes": lambda content, _: to_bytes(content),
    ":bytearray": lambda content, _: bytearray(to_bytes(content)),
    ":complex": lambda content, _: complex(*content),
    ":torch": lambda content, _: _from_torch(content),
    ":device": lambda content, _: th.device(content),
    ":size": lambda content, _: th.Size(content),
    ":generator": _from_generator,
    ":random_state": _from_random_state,
    ":scalar": lambda content, _: np.frombuffer(to_bytes(content[1]), plain_dtype(content[0]), 1)[0],
    ":dtype": lambda content, _: plain_dtype(content),
    ":array": lambda content, _: _from_array(content),
    ":tensor": lambda content, _: th.from_numpy(_from_array(content)),
    ":class": lambda content, _: allowed.resolve(*content),
    ":object": lambda content, unpickle: allowed.build(content[0], content[1], decode(content[2], unpickle)),
}
