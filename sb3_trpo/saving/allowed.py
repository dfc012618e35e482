"""The classes that a file may name, each by its exact module and name.

A file that was made to do harm can have any of them called with whatever arguments it likes: as a policy, a schedule,
an activation function. None of them writes a file, opens a connection or calls what it is given by name, and none may
be added that does. Names have no dots, and a module is imported because it stands here, not because a file names it.
"""

from functools import cache
from importlib import import_module
from typing import Any

import torch as th
from torch.nn.modules import activation

from sb3_trpo.saving.errors import NotAllowedError

BUILT: dict[str, tuple[str, ...]] = {
    "gymnasium.spaces.box": ("Box",),
    "gymnasium.spaces.dict": ("Dict",),
    "gymnasium.spaces.discrete": ("Discrete",),
    "gymnasium.spaces.multi_binary": ("MultiBinary",),
    "gymnasium.spaces.multi_discrete": ("MultiDiscrete",),
    "gymnasium.spaces.tuple": ("Tuple",),
    "rl_zoo3.utils": ("SimpleLinearSchedule",),
    "sb3_contrib.common.recurrent.type_aliases": ("RNNStates",),
    "sb3_trpo.algorithms.replay": ("Rollout",),
    "sb3_trpo.algorithms.regressions": ("GaussNewtonRegression", "MinibatchRegression"),
    "sb3_trpo.core.trust_region": ("AdaptiveRadius", "FixedRadius", "ScheduledRadius"),
    "sb3_trpo.extensions.confidence": ("ConfidenceRadius",),
    "sb3_trpo.extensions.correlated_noise": ("ColoredNoise", "OrnsteinUhlenbeckNoise", "PinkNoise", "WhiteNoise"),
    "sb3_trpo.extensions.extension": ("Plain",),
    "sb3_trpo.extensions.gradient_tracking": ("GradientTracking",),
    "sb3_trpo.extensions.hessian_tracking": ("HessianAidedTracking",),
    "sb3_trpo.extensions.held_out": ("HeldOutValidation",),
    "sb3_trpo.extensions.sample_reuse": ("AdaptiveBound", "FixedBound"),
    "sb3_trpo.extensions.uncertainty": ("UncertaintyRegion",),
    "stable_baselines3.common.noise": (
        "NormalActionNoise",
        "OrnsteinUhlenbeckActionNoise",
        "VectorizedActionNoise",
    ),
    "stable_baselines3.common.running_mean_std": ("RunningMeanStd",),
    "stable_baselines3.common.utils": ("ConstantSchedule", "FloatSchedule", "LinearSchedule"),
}
"""Module -> classes of which a file may hold objects, built from their attributes without their constructor."""

NAMED: dict[str, tuple[str, ...]] = {
    "numpy": ("bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"),
    "sb3_contrib.common.maskable.buffers": ("MaskableDictRolloutBuffer", "MaskableRolloutBuffer"),
    "sb3_contrib.common.maskable.policies": (
        "MaskableActorCriticCnnPolicy",
        "MaskableActorCriticPolicy",
        "MaskableMultiInputActorCriticPolicy",
    ),
    "sb3_contrib.common.recurrent.buffers": ("RecurrentDictRolloutBuffer", "RecurrentRolloutBuffer"),
    "sb3_contrib.common.recurrent.policies": (
        "RecurrentActorCriticCnnPolicy",
        "RecurrentActorCriticPolicy",
        "RecurrentMultiInputActorCriticPolicy",
    ),
    "sb3_trpo.algorithms.maskable_recurrent": (
        "MaskableRecurrentDictRolloutBuffer",
        "MaskableRecurrentRolloutBuffer",
    ),
    "sb3_trpo.algorithms.policies": (
        "CnnLstmPolicy",
        "CnnPolicy",
        "MaskableCnnLstmPolicy",
        "MaskableCnnPolicy",
        "MaskableMlpLstmPolicy",
        "MaskableMlpPolicy",
        "MaskableMultiInputLstmPolicy",
        "MaskableMultiInputPolicy",
        "MlpLstmPolicy",
        "MlpPolicy",
        "MultiInputLstmPolicy",
        "MultiInputPolicy",
    ),
    "stable_baselines3.common.buffers": ("DictRolloutBuffer", "RolloutBuffer"),
    "stable_baselines3.common.policies": (
        "ActorCriticCnnPolicy",
        "ActorCriticPolicy",
        "MultiInputActorCriticPolicy",
    ),
    "stable_baselines3.common.sb2_compat.rmsprop_tf_like": ("RMSpropTFLike",),
    "stable_baselines3.common.torch_layers": ("CombinedExtractor", "FlattenExtractor", "NatureCNN"),
    "torch.nn.modules.activation": tuple(activation.__all__),
    "torch.nn.modules.linear": ("Identity",),
}
"""Module -> further classes, which a file may only name."""

OPTIMIZERS = [
    cls
    for cls in vars(th.optim).values()
    if isinstance(cls, type) and issubclass(cls, th.optim.Optimizer) and cls.__module__.startswith("torch.optim.")
]

NAMES = frozenset(
    [
        *((module, name) for table in (BUILT, NAMED) for module, names in table.items() for name in names),
        *((cls.__module__, cls.__name__) for cls in OPTIMIZERS),
    ]
)


def resolve(module: str, name: str) -> Any:
    """The class of that name.

    :raises NotAllowedError: when it is not on the list, or no longer there
    """
    if (module, name) not in NAMES:
        raise NotAllowedError(f"{module}.{name} is not on the list of classes that a file may name")
    try:
        return _imported(module, name)
    except (ImportError, AttributeError) as error:
        raise NotAllowedError(f"{module}.{name} cannot be imported: {error}") from error


def name_of(cls: Any) -> tuple[str, str] | None:
    """Module and name under which `resolve` finds this very class; None if it does not."""
    names = (getattr(cls, "__module__", None), getattr(cls, "__qualname__", None))
    if not isinstance(cls, type) or names not in NAMES:
        return None
    module, name = cls.__module__, cls.__qualname__
    return (module, name) if resolve(module, name) is cls else None


def may_be_built(module: str, name: str) -> bool:
    """Whether a file may hold objects of the class, and not only its name."""
    return name in BUILT.get(module, ())


def build(module: str, name: str, state: Any) -> Any:
    """An object of the class with attributes ``state``; a named tuple from its fields.

    :raises NotAllowedError: when it is not on the list
    """
    if not may_be_built(module, name):
        raise NotAllowedError(f"{module}.{name} is not on the list of classes that a file may hold objects of")
    cls = resolve(module, name)
    if issubclass(cls, tuple):
        return cls(*state)
    made = cls.__new__(cls)
    restore = getattr(made, "__setstate__", vars(made).update)  # spaces bring attributes of older versions up to date
    restore(dict(state))
    return made


@cache
def _imported(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
