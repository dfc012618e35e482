"""Weights and optimiser states: files of ``torch.save`` in which there are tensors and nothing else."""

import io
import zipfile
from collections.abc import Collection, Iterator
from typing import Any

import torch as th

from sb3_trpo.saving.errors import MalformedError


def to_bytes(state: Any) -> bytes:
    """A state dictionary as ``torch.save`` writes it."""
    stream = io.BytesIO()
    th.save(state, stream)
    return stream.getvalue()


def from_bytes(content: bytes, device: th.device | str) -> Any:
    """The state dictionary, read by torch's own list of what may be in it.

    :raises MalformedError: when it is none, or something else is in it
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise MalformedError("it is compressed, which torch.save does not do")
        state = th.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (MalformedError, MemoryError):
        raise
    except Exception as error:  # torch raises RuntimeError, pickle.UnpicklingError, and what its reader stumbles over
        raise MalformedError(f"it holds more than tensors, or is damaged: {_first_line(error)}") from error
    return state


def not_finite(state: Any, may_be_infinite: Collection[str] = ()) -> str | None:
    """The name of the first tensor with NaN or infinity in it, None if there is none.

    :param may_be_infinite: names of tensors in which only NaN counts
    """
    for name, tensor in _tensors(state):
        is_bad = th.isnan(tensor) if name in may_be_infinite else ~th.isfinite(tensor)
        if bool(is_bad.any()):
            return name
    return None


def _tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, th.Tensor]]:
    if isinstance(state, th.Tensor):
        yield prefix, state
    elif isinstance(state, dict):
        for key, part in state.items():
            yield from _tensors(part, f"{prefix}.{key}" if prefix else str(key))


def _first_line(error: Exception) -> str:
    """Torch's messages go on for pages with advice to turn its protection off."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
