"""Observation and reward statistics in the file of Stable-Baselines3's `VecNormalize`, which RL Zoo reads, too.

It is a pickle, read as data (`pickles`). Behind it, where readers of pickles do not look, stands its SHA-256.
"""

import hashlib
import pickle
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_trpo.files import replacing
from sb3_trpo.saving import pickles
from sb3_trpo.saving.errors import FileError, MalformedError, NotAllowedError, UntrustedError

MARK = b"\nsb3-trpo sha256 "
"""Before the hash."""

LEFT_OUT = {"metadata", "reset_infos", "_seeds", "_options", "render_mode"}
"""What belongs to the environment, and is taken from the one that there is."""


def save_normalizer(normalizer: VecNormalize, path: str | PathLike[str]) -> None:
    """Write the statistics, whole or not at all.

    :raises OSError: naming the file, when it cannot be written
    """
    content = pickle.dumps(normalizer, protocol=pickle.HIGHEST_PROTOCOL)
    with replacing(path) as temporary:
        temporary.write_bytes(content + MARK + _hash(content))


def load_normalizer(path: str | PathLike[str], venv: VecEnv, trust: bool = False) -> VecNormalize:
    """A normaliser around ``venv`` with the statistics of a file, of this package or of Stable-Baselines3.

    :param trust: run the code that is in the file
    :raises FileError: when it is none, is damaged, holds statistics that are not finite, is for another environment,
        or needs to be trusted
    :raises OSError: when there is no such file
    """
    content = _checked(Path(path).read_bytes(), str(path))
    normalizer: VecNormalize
    if trust:
        normalizer = pickle.loads(content)
    else:
        normalizer = VecNormalize.__new__(VecNormalize)
        normalizer.__setstate__(_state(content, str(path)))
    for name, statistics in _statistics(normalizer):
        if not all(np.isfinite(numbers).all() for numbers in (statistics.mean, statistics.var, statistics.count)):
            raise FileError(f"{path} is refused: NaN or infinite statistics in {name}")
    try:
        normalizer.set_venv(venv)
    except (AssertionError, ValueError, AttributeError, TypeError) as error:
        raise FileError(f"{path} holds the statistics of another environment: {error}") from error
    return normalizer


def _checked(content: bytes, name: str) -> bytes:
    """The pickle, if its hash is right; a file of Stable-Baselines3 has none."""
    length = len(MARK) + 64
    body, tail = content[:-length], content[-length:]
    if not tail.startswith(MARK):
        return content
    if tail != MARK + _hash(body):
        raise FileError(f"{name} is damaged: it is not what was saved (SHA-256 differs)")
    return body


def _state(content: bytes, name: str) -> dict[str, Any]:
    """The attributes of a normaliser, those of its environment left out."""
    try:
        tree, length = pickles.read(content)
        if length != len(content):
            raise MalformedError(f"{len(content) - length} bytes follow what it holds")
        is_normalizer = (
            isinstance(tree, pickles.Call) and str(tree.function) == VecNormalize.__module__ + ".VecNormalize"
        )
        if not (is_normalizer and isinstance(tree.state, dict)):
            raise NotAllowedError("it holds something else than a VecNormalize")
        state = pickles.value_of({key: part for key, part in tree.state.items() if key not in LEFT_OUT})
    except NotAllowedError as error:
        raise UntrustedError(
            f"{name} is not loaded, because it could run any code: {error}. Pass trust=True if you made the file "
            "yourself"
        ) from error
    except MalformedError as error:
        raise FileError(f"{name} holds no statistics of VecNormalize, or is damaged: {error}") from error
    return dict(state)


def _statistics(normalizer: VecNormalize) -> list[tuple[str, RunningMeanStd]]:
    """Of rewards, and of each part of the observation."""
    observations: Any = getattr(normalizer, "obs_rms", None)
    parts = observations.items() if isinstance(observations, dict) else [("obs_rms", observations)]
    return [
        (name, part) for name, part in [*parts, ("ret_rms", normalizer.ret_rms)] if isinstance(part, RunningMeanStd)
    ]


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
