"""Pickles read as data: nothing that they name is imported, built or called while they are read.

Stable-Baselines3 pickles what is not JSON (spaces, schedules, buffers of episodes), and `VecNormalize`. Here the stack
machine of the standard library runs with classes and functions replaced by their names, and with calls replaced by
notes of what would be called: the result is a tree. `value_of` makes values of the tree, by a recipe of our own for
each function that numpy and the standard library pickle with, and from the list of allowed classes.
"""

import io
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn

import numpy as np

from sb3_trpo.saving import allowed, codec
from sb3_trpo.saving.errors import MalformedError, NotAllowedError

_Unpickler: Any = pickle._Unpickler  # in Python: its steps can be replaced

ATOMS = (type(None), bool, int, float, str, bytes, bytearray, complex)


class Name:
    """A class or function that a pickle names."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self, *args: Any) -> "Call":
        """What the pickle asks for, noted."""
        return Call(self, args)

    def __setstate__(self, state: Any) -> NoReturn:
        """Refused: it would change a class or a function."""
        raise NotAllowedError(f"a pickle changes {self}")

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """The note of a call, of the state that its result is given, and of what is put into it."""

    def __init__(self, function: Name, args: tuple[Any, ...], is_new: bool = False):
        self.function, self.args, self.is_new = function, args, is_new
        self.state: Any = None
        self.parts: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, part: Any) -> None:
        """As to a list."""
        self.parts.append(part)

    def extend(self, parts: Iterable[Any]) -> None:
        """As to a list."""
        self.parts.extend(parts)


class _Reader(_Unpickler):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Name:
        return Name(module, name)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise NotAllowedError("a pickle refers to something outside")

    def get_extension(self, code: int) -> NoReturn:
        raise NotAllowedError("a pickle refers to something outside")

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.append(Call(_named(cls), tuple(args), is_new=True))

    def load_newobj_ex(self) -> NoReturn:
        raise NotAllowedError("an object is built with named arguments")

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.append(Call(_named(function), tuple(args)))

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (Call, Name)):
            raise NotAllowedError(f"a pickle changes a {type(target).__name__}")
        target.__setstate__(state)

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        content = self.read(size)  # and not room for it first: there may be less
        if len(content) != size:
            raise MalformedError("it ends too early")
        self.append(bytearray(content))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def read(content: bytes) -> tuple[Any, int]:
    """The tree of a pickle, and how many bytes it took.

    :raises NotAllowedError: when it does what no value needs
    :raises MalformedError: when it is none
    """
    stream = io.BytesIO(content)
    try:
        return _Reader(stream).load(), stream.tell()
    except MalformedError:
        raise
    except (Exception, RecursionError) as error:  # whatever bytes that are no pickle lead to
        raise MalformedError(f"no pickle: {type(error).__name__}: {error}") from error


def loads(content: bytes) -> Any:
    """The value of a pickle.

    :raises NotAllowedError: when it names what is not allowed, or does what no value needs
    :raises MalformedError: when it is none
    """
    return value_of(read(content)[0])


def value_of(tree: Any) -> Any:
    """What a tree stands for.

    :raises NotAllowedError: when it names what is not allowed, or uses it as no value needs
    """
    try:
        return _Builder().value(tree)
    except NotAllowedError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise NotAllowedError(f"a pickle is not what it should be: {error}") from error


class _Builder:
    """Makes each value of a tree once: what is the same there is the same here."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}

    def value(self, tree: Any) -> Any:
        if type(tree) in ATOMS:
            return tree
        if id(tree) not in self.made:
            self.made[id(tree)] = _UNFINISHED
            self.made[id(tree)] = self._make(tree)
        if self.made[id(tree)] is _UNFINISHED:
            raise MalformedError("it contains itself")
        return self.made[id(tree)]

    def _make(self, tree: Any) -> Any:
        if isinstance(tree, Name):
            return allowed.resolve(tree.module, tree.name)
        if isinstance(tree, Call):
            return self._call(tree)
        if type(tree) in (list, tuple, set, frozenset):
            return type(tree)(self.value(part) for part in tree)
        if type(tree) is dict:
            return {self.value(key): self.value(part) for key, part in tree.items()}
        raise MalformedError(f"it holds a {type(tree).__name__}")

    def _call(self, call: Call) -> Any:
        module, name = call.function.module, call.function.name
        if module.startswith("numpy.core."):  # before numpy 2
            module = module.replace("numpy.core.", "numpy._core.", 1)
        recipe = RECIPES.get(f"{module}.{name}")
        if recipe is not None and not call.is_new:
            return recipe(self, call)
        if not allowed.may_be_built(module, name) or not call.is_new:
            raise NotAllowedError(f"{call.function} is not on the list of what a file may call")
        if call.parts or call.pairs:
            raise MalformedError(f"it puts something into a {call.function}")
        if call.args:
            return allowed.build(module, name, self.value(call.args))
        return allowed.build(module, name, self.value(call.state) or {})

    def _dtype(self, call: Call) -> np.dtype[Any]:
        dtype = codec.plain_dtype(call.args[0])
        if call.state is None:
            return dtype
        order, *parts = call.state[1:5]
        if any(part is not None for part in parts):
            raise MalformedError("a dtype has fields or parts")
        return dtype.newbyteorder(order)

    def _frombuffer(self, call: Call) -> np.ndarray:
        content, dtype, shape, order = call.args
        return codec.array(_typed(self.value(dtype), np.dtype), self.value(shape), self.value(content), order)

    def _reconstruct(self, call: Call) -> np.ndarray:
        if str(call.args[0]) != "numpy.ndarray":
            raise NotAllowedError(f"{call.args[0]} is not on the list of what a file may call")
        _, shape, dtype, is_fortran, content = call.state
        order = "F" if is_fortran else "C"
        return codec.array(_typed(self.value(dtype), np.dtype), self.value(shape), self.value(content), order)

    def _scalar(self, call: Call) -> Any:
        dtype, content = call.args
        return np.frombuffer(self.value(content), _typed(self.value(dtype), np.dtype), 1)[0]

    def _seed_sequence(self, call: Call) -> np.random.SeedSequence:
        entropy, n_children, _, pool_size, spawn_key = self.value(call.state if call.state else call.args[2])
        return codec.seed_sequence(entropy, spawn_key, pool_size, n_children)

    def _bit_generator(self, call: Call) -> np.random.BitGenerator:
        state = self.value(call.state)
        state, sequence = state if isinstance(state, tuple) else (state, None)
        return codec.bit_generator(state, sequence)

    def _generator(self, call: Call) -> np.random.Generator:
        if isinstance(call.args[0], str):  # before numpy 2 a generator knows its bit generator by name
            return np.random.Generator(codec.bit_generator(self.value(call.state), None))
        return np.random.Generator(self.value(call.args[0]))

    def _random_state(self, call: Call) -> np.random.RandomState:
        state = self.value(call.state)
        made = np.random.RandomState(codec.BIT_GENERATORS[state["bit_generator"]](0))
        made.set_state(state)
        return made

    def _deque(self, call: Call) -> deque[Any]:
        before = self.value(call.args[0]) if call.args else ()
        return deque([*before, *map(self.value, call.parts)], *call.args[1:])

    def _complex(self, call: Call) -> complex:
        return complex(*call.args)

    def _ordered(self, call: Call) -> "OrderedDict[Any, Any]":
        pairs = [*(self.value(call.args[0]) if call.args else ())]
        return OrderedDict([*pairs, *((self.value(key), self.value(part)) for key, part in call.pairs)])


RECIPES: dict[str, Callable[[_Builder, Call], Any]] = {
    "numpy.dtype": _Builder._dtype,
    "numpy._core.numeric._frombuffer": _Builder._frombuffer,
    "numpy._core.multiarray._reconstruct": _Builder._reconstruct,
    "numpy._core.multiarray.scalar": _Builder._scalar,
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence": _Builder._seed_sequence,
    "numpy.random._pickle.__bit_generator_ctor": _Builder._bit_generator,
    "numpy.random._pickle.__generator_ctor": _Builder._generator,
    "numpy.random._pickle.__randomstate_ctor": _Builder._random_state,
    "builtins.complex": _Builder._complex,
    "collections.deque": _Builder._deque,
    "collections.OrderedDict": _Builder._ordered,
}
"""What is done in place of the functions that values are pickled with."""

_UNFINISHED = object()


def _named(function: Any) -> Name:
    if isinstance(function, Call):  # such as the parts that cloudpickle makes a function of
        raise NotAllowedError(f"{function.function} is not on the list of what a file may call")
    if not isinstance(function, Name):
        raise NotAllowedError(f"a pickle calls a {type(function).__name__}")
    return function


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise MalformedError(f"it takes a {type(value).__name__} for a {kind.__name__}")
    return value
