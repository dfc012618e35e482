"""Files that are there whole or not at all, with refusals for the command line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sb3_trpo import files
from sb3_trpo.zoo.errors import UsageError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that takes its place when the block ends without an error.

    :raises UsageError: when it cannot be written
    """
    try:
        with files.replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise UsageError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    :raises UsageError: when it cannot be written
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
