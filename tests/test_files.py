"""Files are there whole or not at all: after kills, on full disks, under several writers."""

import contextlib
import errno
import os
import resource
import signal
import threading
import time

import pytest

from sb3_trpo.files import replacing, write_text
from tests.processes import forked


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@contextlib.contextmanager
def full_disk(size):
    """No file can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    write_text(path, "second\r\n")
    assert path.read_bytes() == b"second\r\n"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, kind):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(kind, match="stop"), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise kind("stop")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_permissions_are_those_of_the_old_file_or_the_usual_ones(tmp_path):
    write_text(tmp_path / "usual", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "usual").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "usual").chmod(0o640)
    write_text(tmp_path / "usual", "again")
    assert (tmp_path / "usual").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("place", ["a folder", "under a file", "a pipe"])
def test_what_cannot_be_written_is_named(tmp_path, place):
    path = tmp_path / "there"
    if place == "a folder":
        path.mkdir()
    elif place == "a pipe":
        os.mkfifo(path)
    else:
        path.touch()
        path = path / "file"
    with pytest.raises(OSError, match=f"^{path} cannot be written: "):
        write_text(path, "text")
    assert os.listdir(tmp_path) == ["there"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with full_disk(1000), pytest.raises(OSError, match=f"^{path} cannot be written: File too large") as caught:
        write_text(path, "new" * 1000)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_disk_has_a_file_before_its_name_and_the_folder_after(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(type(tmp_path), "replace", lambda *args: (done.append("rename"), rename(*args))[1])
    write_text(tmp_path / "file.txt", "text")
    assert done == [str(tmp_path / ".sb3-trpo-0.tmp.txt"), "rename", str(tmp_path)]


def test_what_a_killed_writer_left_is_taken_over(tmp_path):
    path = tmp_path / "file.txt"

    def write_for_ever():
        with replacing(path) as temporary:
            temporary.write_text("half " * 1000)
            signal.pause()

    for _ in range(3):
        with forked(write_for_ever) as child:
            while not leftovers(tmp_path):
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
        assert leftovers(tmp_path) == [".sb3-trpo-0.tmp.txt"]
    write_text(tmp_path / "other.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == ["other.txt"]
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_writers_do_not_meet(tmp_path):
    """Threads and processes; each text is long enough to be written in parts."""
    path = tmp_path / "file.txt"
    texts = {letter: letter * 300_000 for letter in "abcdef"}
    write_text(path, texts["a"])

    def write(letter):
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            write_text(path, texts[letter])

    with contextlib.ExitStack() as stack:
        for letter in "abcd":
            stack.enter_context(forked(lambda letter=letter: write(letter)))
        threads = [threading.Thread(target=write, args=letter) for letter in "ef"]
        for thread in threads:
            thread.start()
        seen = set()
        while any(thread.is_alive() for thread in threads):
            text = path.read_text()
            assert texts[text[0]] == text
            seen.add(text[0])
        for thread in threads:
            thread.join()
    assert len(seen) > 2
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_file_system_without_locks_gets_names_that_are_new(tmp_path, monkeypatch):
    import sb3_trpo.files as files

    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    (tmp_path / ".sb3-trpo-0.tmp.txt").write_text("of someone else")
    write_text(tmp_path / "file.txt", "text")
    assert (tmp_path / "file.txt").read_text() == "text"
    assert (tmp_path / ".sb3-trpo-0.tmp.txt").read_text() == "of someone else"
