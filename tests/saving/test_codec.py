"""Values come back from JSON, and from pickles read as data, as what they were."""

import contextlib
import json
import pickle
from collections import OrderedDict, deque

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from sb3_trpo.algorithms.policies import MlpPolicy
from sb3_trpo.algorithms.regressions import MinibatchRegression
from sb3_trpo.core.trust_region import AdaptiveRadius
from sb3_trpo.saving import allowed, codec, pickles
from sb3_trpo.saving.errors import MalformedError, NotAllowedError


def never(content):
    raise AssertionError("it is pickled")


def through_json(value):
    return codec.decode(json.loads(json.dumps(codec.encode(value))), never)


def through_pickle(value, protocol=pickle.DEFAULT_PROTOCOL):
    return pickles.loads(pickle.dumps(value, protocol))


def assert_same(a, b):
    """Types and contents, NaN as itself."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, th.Tensor):
        assert a.dtype == b.dtype
        assert th.equal(a, b)
    elif isinstance(a, dict):
        for (key, part), (other_key, other) in zip(a.items(), b.items(), strict=True):
            assert_same(key, other_key)
            assert_same(part, other)
    elif isinstance(a, (list, tuple, deque)):
        assert len(a) == len(b)
        assert getattr(a, "maxlen", None) == getattr(b, "maxlen", None)
        for part, other in zip(a, b, strict=True):
            assert_same(part, other)
    elif isinstance(a, (np.random.Generator, np.random.RandomState)):
        assert_same(a.bit_generator.state, b.bit_generator.state) if hasattr(a, "bit_generator") else None
        np.testing.assert_array_equal(a.standard_normal(5), b.standard_normal(5))
    elif hasattr(a, "__dict__") and not isinstance(a, type):
        assert_same(vars(a), vars(b))
    else:
        assert a == b or (a != a and b != b)


numbers = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
plain_dtypes = hnp.scalar_dtypes().filter(lambda dtype: dtype.kind in "biufcU" and dtype.itemsize <= 16)
arrays = hnp.arrays(plain_dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
keys = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
values = st.recursive(
    numbers | arrays,
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.lists(parts, max_size=4).map(tuple)
        | st.builds(deque, st.lists(parts, max_size=4), st.none() | st.integers(0, 5))
        | st.dictionaries(keys, parts, max_size=4)
        | st.dictionaries(st.text(), parts, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(values)
def test_values_survive_json(value):
    assert_same(through_json(value), value)


@given(values, st.sampled_from([4, 5]))
def test_values_survive_pickles_read_as_data(value, protocol):
    assert_same(through_pickle(value, protocol), value)


@given(st.sets(keys))
def test_sets_survive(value):
    assert through_json(value) == through_pickle(value) == value
    assert through_json(frozenset(value)) == frozenset(value)


def seeded(space):
    space.seed(3)
    return space


def generators():
    for kind in codec.BIT_GENERATORS.values():
        generator = np.random.Generator(kind(3))
        generator.integers(5, dtype=np.uint32)  # half of a number is kept for the next
        generator.spawn(2)
        yield generator
    state = np.random.RandomState(3)
    state.standard_normal()
    yield state


OBJECTS = [
    *generators(),
    seeded(spaces.Box(-np.inf, 2.0, (3,), np.float32)),
    seeded(spaces.Box(0, 255, (1, 4, 4), np.uint8)),
    seeded(spaces.Discrete(4, start=-2)),
    seeded(spaces.MultiDiscrete([2, 3])),
    seeded(spaces.MultiBinary([2, 3])),
    seeded(spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.Box(0, 1, (2,))})})),
    seeded(spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))])),
    FloatSchedule(LinearSchedule(1e-3, 0.0, 0.5)),
    ConstantSchedule(0.1),
    NormalActionNoise(np.zeros(2), np.ones(2)),
    VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2)), 2),
    RunningMeanStd(shape=(3,)),
    AdaptiveRadius(factor=2.0),
    MinibatchRegression(holdout=0.1),
    RNNStates((np.zeros(2),), (np.ones(2),)),
    [np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True), np.uint8(3)],
    np.dtype(">f4"),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("way", [through_json, through_pickle])
def test_objects_survive(value, way):
    assert_same(way(value), value)


def test_spaces_sample_and_generators_spawn_as_before():
    space = seeded(spaces.Dict({"a": spaces.Discrete(5), "b": spaces.Box(0, 1, (2,))}))
    copies = through_json(space), through_pickle(space)
    sample = space.sample()
    for copy in copies:
        assert copy == space
        assert_same(copy.sample(), sample)
    generator = np.random.default_rng(3)
    copies = through_json(generator), through_pickle(generator)
    child = generator.spawn(1)[0].standard_normal()
    assert [copy.spawn(1)[0].standard_normal() for copy in copies] == [child, child]


@pytest.mark.parametrize(
    "value",
    [
        th.arange(6.0).reshape(2, 3),
        th.get_rng_state(),
        th.tensor(3, dtype=th.int64),
        th.float64,
        th.device("cpu"),
        th.Size([2, 3]),
        bytearray(b"abc"),
    ],
    ids=str,
)
def test_what_is_torchs_survives_json(value):
    assert_same(through_json(value), value)


@pytest.mark.parametrize("cls", [nn.ReLU, th.optim.Adam, MlpPolicy, spaces.Box, np.float32])
def test_classes_of_the_list_survive(cls):
    assert through_json(cls) is cls
    assert through_pickle(cls) is cls


def test_all_classes_of_the_list_are_there_and_are_named_by_their_place():
    for module, name in sorted(allowed.NAMES):
        assert "." not in name
        found = allowed.resolve(module, name)
        assert isinstance(found, type)
        if module != "numpy":
            assert allowed.name_of(found) == (module, name)


def test_no_class_that_is_not_listed_has_a_name():
    class Mine(nn.ReLU):
        """Says that it is another."""

    assert allowed.name_of(Mine) is None
    Mine.__module__, Mine.__qualname__ = nn.ReLU.__module__, "ReLU"
    assert allowed.name_of(Mine) is None


def of_ones_own(progress):
    return 0.1


@pytest.mark.parametrize(
    "value",
    [
        of_ones_own,
        lambda progress: 0.1,
        nn.Linear(2, 2),
        np.array([1, "a", None], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        print,
        type("Mine", (dict,), {})(a=1),
        FloatSchedule(of_ones_own),
        {"deep": [(of_ones_own,)]},
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_pickled_and_comes_back_with_trust_only(value):
    form = json.loads(json.dumps(codec.encode(value)))
    assert codec.PICKLED in json.dumps(form)
    assert type(codec.decode(form, cloudpickle.loads)) is type(value)
    with pytest.raises(NotAllowedError):
        codec.decode(form, pickles.loads)


def test_what_refers_to_itself_is_pickled_or_refused():
    knot = []
    knot.append(knot)
    with pytest.raises(RecursionError):
        codec.encode(knot)
    with pytest.raises(NotAllowedError, match="contains itself"):
        pickles.loads(pickle.dumps(knot))


def test_what_is_shared_in_a_pickle_is_made_once():
    shared = RunningMeanStd(shape=(2,))
    first, second = through_pickle([shared, shared])
    assert first is second
    tree = [1]
    for _ in range(60):  # 2^60 numbers, if each were made anew
        tree = [tree, tree]
    through_pickle(tree)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda content: b"\x80\x04" + content + b"."))
def test_bytes_that_are_no_pickle_are_refused(content):
    with contextlib.suppress(MalformedError):
        pickles.loads(content)


@given(st.data())
def test_a_changed_pickle_is_read_or_refused(data):
    content = bytearray(cloudpickle.dumps(OBJECTS[data.draw(st.integers(0, len(OBJECTS) - 1))]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        pickles.loads(bytes(content))


def test_room_is_not_made_for_bytes_that_are_not_there():
    with pytest.raises(MalformedError, match="ends too early"):
        pickles.loads(b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"abc.")
    with pytest.raises(MalformedError, match="pool"):
        codec.decode(
            {
                ":generator": [
                    {"bit_generator": "PCG64"},
                    {**np.random.SeedSequence(1).state, "pool_size": 2**40, "spawn_key": []},
                ]
            },
            never,
        )
