"""Model files: ``data`` with the attributes, ``policy.pth`` and ``policy.optimizer.pth`` with the weights, a manifest.

As in Stable-Baselines3's files, of which this is the successor: entries have the same names, and its tools find the
version and the system that a model was saved with. In ``data`` attributes are plain JSON (`codec`) where they were
pickled; what has to be is pickled still, and refused by a reader who does not trust the file.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BufferedIOBase
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

import cloudpickle
import stable_baselines3
import torch as th
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.utils import get_system_info

from sb3_trpo.files import replacing
from sb3_trpo.saving import archive, codec, pickles, weights
from sb3_trpo.saving.errors import FileError, MalformedError, NotAllowedError, UntrustedError

ModelFile: TypeAlias = str | PathLike[str] | BufferedIOBase

VARIABLES = "pytorch_variables"
"""Tensors that are no module's, by their names."""


class SavedModel(NamedTuple):
    """A file that was found undamaged, nothing of which has been made into objects yet.

    :param name: of the file, for messages
    :param algorithm: the class of this package that saved it, None for files of others
    :param attributes: name -> JSON of the value
    :param tensors: name -> what ``torch.save`` wrote
    :param system: the system that it was saved on
    """

    name: str
    algorithm: str | None
    attributes: Mapping[str, Any]
    tensors: Mapping[str, bytes]
    system: str | None

    def decoded(
        self, names: Iterable[str], trust: bool = False, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values of attributes.

        :param trust: unpickle what is pickled, which runs whatever code the file holds
        :param given: values to take in place of those of the file
        :raises UntrustedError: when there are pickles of what is not allowed, and no trust; it names all of them
        :raises FileError: when a value cannot be made sense of
        """
        given, values, refused = given or {}, {}, {}
        unpickle: Callable[[bytes], Any] = cloudpickle.loads if trust else pickles.loads
        for name in names:
            try:
                values[name] = given[name] if name in given else self._decoded(name, unpickle)
            except NotAllowedError as error:  # noqa: PERF203  # all of them are named
                refused[name] = str(error)
        if refused:
            raise UntrustedError(_refusal(self.name, refused))
        return values

    def _decoded(self, name: str, unpickle: Callable[[bytes], Any]) -> Any:
        try:
            return codec.decode(self.attributes[name], unpickle)
        except NotAllowedError:
            raise
        except Exception as error:  # a class of the user's may raise anything
            raise FileError(
                f"{self.name}: entry {name!r} cannot be read ({type(error).__name__}: {error}): make what it is made "
                f"of importable, or pass custom_objects={{{name!r}: ...}}"
            ) from error

    def state(self, name: str, device: th.device | str = "cpu") -> Any:
        """The tensors of one name.

        :raises FileError: when there is something else among them
        """
        try:
            return weights.from_bytes(self.tensors[name], device)
        except MalformedError as error:
            raise FileError(f"{self.name}: entry {name}.pth cannot be read: {error}") from error


def write_model(
    path: ModelFile, algorithm: str, attributes: Mapping[str, Any], states: Mapping[str, Any], variables: Any = None
) -> None:
    """Write a model, whole or not at all; into an open file as it comes.

    :param path: ``.zip`` is added to a path without suffix, folders are made
    :param states: name -> state dictionary
    :raises ValueError: when an attribute can be neither written nor pickled
    :raises OSError: naming the path, when it cannot be written
    """
    entries = _entries(attributes, {**({VARIABLES: variables} if variables else {}), **states})
    if not isinstance(path, (str, PathLike)):
        archive.write(cast(IO[bytes], open_path(path, "w")), entries, algorithm=algorithm)
        return
    target = Path(path)
    target = target if target.suffix else target.with_name(f"{target.name}.zip")
    with replacing(target) as temporary, temporary.open("wb") as stream:
        archive.write(stream, entries, algorithm=algorithm)


def read_model(path: ModelFile) -> SavedModel:
    """Read a model file of this package, of Stable-Baselines3 or of sb3-contrib, without making objects of it.

    :param path: where there is no such file, the same with ``.zip``; an open file is left as it was found
    :raises FileError: when it is none, is damaged, or would inflate to more than is plausible
    :raises FileNotFoundError: when there is no such file
    """
    opened = open_path(Path(path) if isinstance(path, (str, PathLike)) else path, "r", suffix="zip")
    name = str(getattr(opened, "name", path))
    try:
        found = archive.read(cast(IO[bytes], opened), name)
    finally:
        opened.seek(0) if opened is path else opened.close()
    if "data" not in found.entries:
        raise FileError(f"{name} is not a saved model: it has no entry 'data'")
    try:
        attributes = json.loads(found.entries["data"])
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is not a saved model, or is damaged: entry 'data' is no JSON: {error}") from error
    if not isinstance(attributes, dict):
        raise FileError(f"{name} is not a saved model: entry 'data' is no JSON object")
    tensors = {
        entry.removesuffix(".pth"): content for entry, content in found.entries.items() if entry.endswith(".pth")
    }
    algorithm = None if found.manifest is None else str(found.manifest.get("algorithm"))
    system = found.entries.get("system_info.txt")
    return SavedModel(name, algorithm, attributes, tensors, None if system is None else system.decode(errors="replace"))


def _entries(attributes: Mapping[str, Any], tensors: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "data", json.dumps({name: _encoded(name, value) for name, value in attributes.items()}, indent=1).encode()
    for name, state in tensors.items():
        yield f"{name}.pth", weights.to_bytes(state)
    yield "_stable_baselines3_version", stable_baselines3.__version__.encode()
    yield "system_info.txt", get_system_info(print_info=False)[1].encode()


def _encoded(name: str, value: Any) -> Any:
    try:
        return codec.encode(value)
    except Exception as error:  # whatever cloudpickle raises
        raise ValueError(
            f"attribute {name!r} cannot be saved ({type(error).__name__}: {error}): pass exclude=[{name!r}]"
        ) from error


def _refusal(file: str, refused: Mapping[str, str]) -> str:
    what = "; ".join(f"in entry {name!r} {why}" for name, why in refused.items())
    instead = ", ".join(f"{name!r}: ..." for name in refused)
    return (
        f"{file} is not loaded, because it could run any code: {what}. Pass trust=True if you made the file yourself "
        f"or trust whoever did, or custom_objects={{{instead}}} to put something of your own in its place"
    )
