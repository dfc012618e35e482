"""A zip file whose entries have their sizes and SHA-256 in ``manifest.json``, so that no damage goes unnoticed.

Sizes are checked before anything is inflated. Files of Stable-Baselines3 have no manifest; in them the zip's own
checksums are what is checked.
"""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any, NamedTuple

from sb3_trpo.saving.errors import FileError

FORMAT = 1
"""Raised whenever an older version of the package could not read what is written."""

MANIFEST = "manifest.json"
PACKAGES = ("sb3-trpo", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

INFLATES_TO = 20
"""How many times its own size a file may inflate to, and `ALWAYS_ALLOWED` bytes. Ours, and Stable-Baselines3's, are not
compressed at all."""
ALWAYS_ALLOWED = 2**24


class Archive(NamedTuple):
    """What is in a file.

    :param name: of the file, for messages
    :param manifest: what it says of itself, None for a file of Stable-Baselines3
    :param entries: name -> content
    """

    name: str
    manifest: Mapping[str, Any] | None
    entries: Mapping[str, bytes]


def write(stream: IO[bytes], entries: Iterable[tuple[str, bytes]], **about: Any) -> None:
    """Write the entries, each as soon as it comes, and the manifest; ``about`` is what else it says."""
    listed = {}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries:
            listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            archive.writestr(name, content)
        manifest = {"format": FORMAT, **about, "versions": _versions(), "entries": listed}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=2))


def read(stream: IO[bytes], name: str) -> Archive:
    """Everything in a file, found undamaged.

    :param name: of the file, for messages
    :raises FileError: when it is no such file, is damaged, would inflate to more than is plausible, or is of a later
        version
    """
    try:
        entries = _inflate(stream, name)
    except (FileError, MemoryError):
        raise
    except Exception as error:  # zipfile lets through what its parts raise: zlib.error, struct.error, EOFError, ...
        raise FileError(f"{name} is not a saved model, or is damaged: {error or type(error).__name__}") from error
    text = entries.pop(MANIFEST, None)
    if text is None:
        return Archive(name, None, entries)
    return Archive(name, _checked(text, entries, name), entries)


def _inflate(stream: IO[bytes], name: str) -> dict[str, bytes]:
    size = stream.seek(0, 2) - stream.seek(0)
    allowed = INFLATES_TO * size + ALWAYS_ALLOWED
    with zipfile.ZipFile(stream) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names) or len(names) != _counted(stream, size):
            raise FileError(f"{name} is damaged: entries are missing, or are in it twice")
        for info in infos:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileError(f"{name} is refused: entry {info.filename} is compressed in an unusual way")
        declared = sum(info.file_size for info in infos)
        if declared > allowed:
            raise FileError(f"{name} is refused: its {size:,} bytes would inflate to {declared:,}")
        return {info.filename: archive.read(info) for info in infos}  # no more than the declared size is read


def _counted(stream: IO[bytes], size: int) -> int:
    """How many entries there are by the last record of the zip; their table may have swallowed some."""
    stream.seek(max(size - 2**16, 0))
    end = stream.read()
    where = end.rindex(b"PK\5\6") + 10
    return int.from_bytes(end[where : where + 2], "little")


def _checked(text: bytes, entries: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    """The manifest, if the entries are what it says."""
    try:
        manifest = json.loads(text)
        written_by, listed = manifest["format"], manifest["entries"]
        expected = {entry: (record["size"], record["sha256"]) for entry, record in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{name} is damaged: its {MANIFEST} is no manifest: {error}") from error
    if not isinstance(written_by, int) or written_by > FORMAT:
        raise FileError(f"{name} has format {written_by}, this version reads up to {FORMAT}: update sb3-trpo")
    for entry in sorted(expected.keys() ^ entries.keys()):
        raise FileError(f"{name} is damaged: entry {entry} is {'missing' if entry in expected else 'not its own'}")
    for entry, content in entries.items():
        if expected[entry] != (len(content), hashlib.sha256(content).hexdigest()):
            raise FileError(f"{name} is damaged: entry {entry} is not what was saved (SHA-256 differs)")
    return manifest  # type: ignore[no-any-return]


@cache
def _versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
