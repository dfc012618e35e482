"""Files that are there whole or not at all, whatever happens while they are written.

A file is written under another name in its folder, flushed to the disk, and renamed: a reader sees the old file or the
new one, after a crash too. The temporary file is locked while its writer lives. The system lifts the lock when the
writer is killed, and the next one in the folder takes away what was left; hence no more of them are ever left than
there were writers at a time (for each suffix), and two writers of one file do not meet.
"""

import contextlib
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where a file that is open cannot be deleted or renamed either
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``, with its suffix, that takes its place when the block ends without an error.

    The folder is made where there is none; the permissions of a file that is replaced are kept.

    :raises OSError: naming ``path``, when it cannot be written; the old file is as it was
    """
    target = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    try:
        if target.exists() and not target.is_file():
            raise OSError(0, "it is there and no ordinary file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            yield temporary
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
    except OSError as error:
        if error.filename == str(path) or isinstance(error, Unwritable):
            raise
        raise Unwritable(error.errno, f"cannot be written: {error.strerror or error}", str(path)) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


class Unwritable(OSError):
    """Says which file could not be written, and why."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """An empty file of one's own beside the target; deleted, unless it was renamed."""
    names = (target.with_name(f".sb3-trpo-{number}.tmp{target.suffix}") for number in count())
    handle, temporary = next((handle, name) for name in names if (handle := _own(name)) is not None)
    if fcntl is None:
        os.close(handle)
    try:
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if fcntl is not None:
            os.close(handle)  # only now may others have it


def _own(temporary: Path) -> int | None:
    """The descriptor of the new file, locked where files can be; None when another writer has it."""
    with contextlib.suppress(OSError):  # just renamed by its writer, or of another user, or there is none
        handle = os.open(temporary, os.O_WRONLY)
        # While it was being opened, its writer may have renamed it: then it is a file that readers see.
        if _lock(handle) and _is_at(handle, temporary):
            temporary.unlink()  # its writer is dead
        os.close(handle)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    locked = _lock(handle)
    if locked is None or (locked and _is_at(handle, temporary)):
        return handle
    os.close(handle)  # someone was quicker, and took it for one whose writer is dead
    return None


def _lock(handle: int) -> bool | None:
    """Whether nobody else has it locked; None where files cannot be locked, as on Windows and some network disks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    if path.is_dir() and fcntl is None:
        return  # Windows flushes no folders
    handle = os.open(path, os.O_RDONLY if fcntl is not None else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
