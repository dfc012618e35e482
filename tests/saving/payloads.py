"""Files that were made to do harm: each would leave ``marker``, or change a class, where a pickle is simply loaded."""

import base64
import copyreg
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import cloudpickle
import torch as th
from stable_baselines3.common.utils import ConstantSchedule

EXTENSION = 0x7F
"""Code of a function in copyreg's registry, as a program of the victim's might have one there."""


def name(module, function):
    """Opcodes that push what is found under a name, which may have dots."""
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, function)) + b"\x93"


def data(value):
    """Opcodes that push a value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def called(function, *args):
    """Opcodes that call a function; arguments that are bytes are opcodes themselves."""
    return function + tuple_of(*(arg if isinstance(arg, bytes) else data(arg) for arg in args)) + b"R"


def whole(opcodes):
    return b"\x80\x04" + opcodes + b"."


def touch(path):
    """What is not to be called."""
    Path(path).touch()


class Saved:
    """What pickles as the call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def payloads(marker, folder):
    """Name -> pickle. ``folder`` is on the path of modules."""
    path, command = str(marker), f"touch {marker}"
    code = f"open({path!r}, 'w').close()"
    script = folder / "script.py"
    script.write_text(code)
    (folder / "module_of_an_attacker.py").write_text(code)
    os_system = whole(called(name("os", "system"), command))
    getattr_ = name("builtins", "getattr")
    os_module = called(name("builtins", "__import__"), "os")
    torch_file = io.BytesIO()
    th.save(Saved(os.system, command), torch_file)

    def made_by_value():
        open(path, "w").close()

    class PolicyOfAnAttacker:
        """Its code is in the file, and runs when it is unpickled."""

        def __setstate__(self, state):
            open(path, "w").close()

    made_by_value.__module__ = PolicyOfAnAttacker.__module__ = "__main__"
    policy = PolicyOfAnAttacker()
    policy.state = 1
    return {
        "os.system": os_system,
        "posix.system": whole(called(name("posix", "system"), command)),
        "os.mknod": whole(called(name("os", "mknod"), path)),
        "subprocess.call": whole(called(name("subprocess", "call"), ["touch", path])),
        "subprocess.check_output": whole(called(name("subprocess", "check_output"), ["touch", path])),
        "pty.spawn": whole(called(name("pty", "spawn"), ["touch", path])),
        "eval": whole(called(name("builtins", "eval"), code)),
        "exec": whole(called(name("builtins", "exec"), code)),
        "open": whole(called(name("builtins", "open"), path, "w")),
        "getattr chain": whole(called(called(getattr_, os_module, "system"), command)),
        "attrgetter": whole(called(called(called(name("operator", "attrgetter"), "system"), os_module), command)),
        "methodcaller": whole(
            called(called(name("operator", "methodcaller"), "touch"), called(name("pathlib", "Path"), path))
        ),
        "partial": whole(called(called(name("functools", "partial"), name("os", "system"), command))),
        "map in a list": whole(
            called(name("builtins", "list"), called(name("builtins", "map"), name("os", "system"), [command]))
        ),
        "nested pickle": whole(called(name("pickle", "loads"), data(os_system))),
        "nested pickle in C": whole(called(name("_pickle", "loads"), data(os_system))),
        "nested cloudpickle": whole(called(name("cloudpickle", "loads"), data(os_system))),
        "torch storage bytes": whole(called(name("torch.storage", "_load_from_bytes"), data(torch_file.getvalue()))),
        "dotted name": whole(called(name("os", "path.os.system"), command)),
        "dotted name in torch": whole(called(name("torch", "serialization.os.system"), command)),
        "dotted name in a module of the list": whole(
            called(name("stable_baselines3.common.utils", "os.system"), command)
        ),
        "dotted method": whole(called(name("pathlib", "Path.touch"), called(name("pathlib", "Path"), path))),
        "module of the attacker": whole(name("module_of_an_attacker", "x")),
        "runpy": whole(called(name("runpy", "run_path"), str(script))),
        "timeit": whole(called(name("timeit", "timeit"), code, "pass", name("time", "perf_counter"), 1)),
        "cProfile": whole(called(name("profile", "run"), code, path + ".profile")),
        "numpy.save": whole(called(name("numpy", "save"), path, [1])),
        "numpy.savetxt": whole(called(name("numpy", "savetxt"), path, [1])),
        "numpy.memmap": whole(called(name("numpy", "memmap"), path, "uint8", "w+", 0, 1)),
        "logging handler": whole(called(name("logging", "FileHandler"), path)),
        "logging configuration": whole(
            called(
                name("logging.config", "dictConfig"),
                {
                    "version": 1,
                    "disable_existing_loggers": False,
                    "handlers": {"h": {"class": "logging.FileHandler", "filename": path}},
                    "root": {"handlers": ["h"]},
                },
            )
        ),
        "shutil": whole(called(name("shutil", "copyfile"), str(script), path)),
        "sqlite": whole(called(name("sqlite3", "connect"), path)),
        "zipfile": whole(called(name("zipfile", "ZipFile"), path, "w")),
        "writer of Stable-Baselines3": whole(
            called(name("stable_baselines3.common.save_util", "save_to_pkl"), path, 1)
        ),
        "logger of Stable-Baselines3": whole(called(name("stable_baselines3.common.logger", "configure"), path)),
        "old opcode": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "old object": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "extension": b"\x80\x04\x82" + bytes([EXTENSION]) + tuple_of(data(command)) + b"R.",
        "function in the file": cloudpickle.dumps(Saved(made_by_value)),
        "class in the file": cloudpickle.dumps(policy),
        "attribute of a class": whole(
            name(ConstantSchedule.__module__, "ConstantSchedule") + tuple_of(data(None), data({"harmed": 1})) + b"b"
        ),
        "behind an allowed object": whole(
            name(ConstantSchedule.__module__, "ConstantSchedule")
            + b")\x81"
            + b"(X\x03\x00\x00\x00val"
            + called(name("os", "system"), command)
            + b"db"
        ),
        "in the place of an array": whole(
            called(
                name("numpy._core.multiarray", "_reconstruct"), called(name("os", "system"), command), (0,), data(b"b")
            )
        ),
    }


def harmed(marker):
    """Whether a payload ran; what it left is taken away."""
    left = list(marker.parent.glob(f"{marker.name}*"))  # with a suffix, too
    found = bool(left) or hasattr(ConstantSchedule, "harmed")
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if hasattr(ConstantSchedule, "harmed"):
        del ConstantSchedule.harmed
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        handler.close()
        root.removeHandler(handler)
    return found


def register_extension():
    """Have the code `EXTENSION` stand for ``os.system``, as registered and used before."""
    copyreg.add_extension("os", "system", EXTENSION)
    copyreg._extension_cache[EXTENSION] = os.system


def forget_extension():
    copyreg.remove_extension("os", "system", EXTENSION)
    copyreg._extension_cache.pop(EXTENSION, None)


def pickled(content):
    """A pickle as Stable-Baselines3 has it in ``data``."""
    return {":type:": "<class 'dict'>", ":serialized:": base64.b64encode(content).decode()}


def changed(file, attributes=None, entries=None, resigned=True):
    """A model file with other attributes and entries, and with a manifest that agrees."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        found = {entry: archive.read(entry) for entry in archive.namelist()}
    if attributes:
        found["data"] = json.dumps({**json.loads(found["data"]), **attributes}).encode()
    found.update(entries or {})
    manifest = json.loads(found.pop("manifest.json", "null"))
    if manifest is not None and resigned:
        manifest["entries"] = {
            entry: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for entry, content in found.items()
        }
    if manifest is not None:
        found["manifest.json"] = json.dumps(manifest).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, content in found.items():
            archive.writestr(entry, content)
    return stream.getvalue()


def tensors(value):
    """What ``torch.save`` makes of a value."""
    stream = io.BytesIO()
    th.save(value, stream)
    return stream.getvalue()
