"""Runs inside every process of ours, as its `sitecustomize`: kills it at the step that the rig has armed.

The rig copies this file into a folder of its own that stands on PYTHONPATH (see `Failpoints`). What makes
a fact last, or tells others of it, is patched here from outside, so that the product holds no hook.
"""

import ctypes
import functools
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_ARMED, _STRUCK = str(_FOLDER / "armed.json"), str(_FOLDER / "struck.json")
_ROLES = {
    "dicom_listener": "listener",
    "prepare@%h": "prepare",
    "worker.decoder_child": "decoder",
    "classify@%h": "classify",
    "deliver@%h": "deliver",
    "sweep@%h": "sweep",
}
_OURS = ("dicom_listener", "worker", "db", "hilum")
_PASSED_OVER = ("hilum.kernel", "db.session")

_role = next((role for argument, role in _ROLES.items() if argument in sys.orig_argv), "")
_seen: dict[int, int] = {}
_rename, _write_bytes = os.rename, Path.write_bytes


def _strikes(step: str, when: str) -> bool:
    """Whether this process is the one that is to die here: of several, one alone is."""
    try:
        with open(_ARMED) as file:  # noqa: PTH123 - a quick miss: nearly always there is none
            armed = json.load(file)
    except FileNotFoundError:
        return False
    if (armed["role"], armed["step"], armed["when"]) != (_role, step, when):
        return False
    _seen[armed["number"]] = _seen.get(armed["number"], 0) + 1
    if _seen[armed["number"]] <= armed["skip"]:
        return False
    try:
        _rename(_ARMED, f"{_ARMED}.{os.getpid()}")
    except FileNotFoundError:  # another was faster
        return False
    return True


def _die(step: str, when: str) -> None:
    aside = Path(f"{_STRUCK}.{os.getpid()}")
    _write_bytes(aside, json.dumps(f"{when} {step} in {' > '.join(_callers())}").encode())
    _rename(aside, _STRUCK)
    os.kill(os.getpid(), signal.SIGKILL)


def _callers() -> list[str]:
    """The two innermost functions of ours that led here."""
    return list(_functions())[:2][::-1]


def _functions() -> Iterator[str]:
    frame = sys._getframe(1)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _OURS and module not in _PASSED_OVER:
            yield f"{module.rpartition('.')[2]}.{frame.f_code.co_qualname.replace('.<locals>', '')}"


def _patch(owner: Any, name: str, step: str) -> None:
    """Have a process die before or after this function when that is armed."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*arguments: Any, **named: Any) -> Any:
        if _strikes(step, "before"):
            _die(step, "before")
        result = original(*arguments, **named)
        if _strikes(step, "after"):
            _die(step, "after")
        return result

    setattr(owner, name, patched)


def _patch_write(owner: Any, name: str) -> None:
    """Have a process die when half of the bytes are written."""
    original: Callable[[Any, bytes], Any] = getattr(owner, name)

    @functools.wraps(original)
    def patched(self: Any, content: bytes) -> Any:
        if _strikes("write", "amid"):
            original(self, content[: len(content) // 2])
            _die("write", "amid")
        return original(self, content)

    setattr(owner, name, patched)


def _patch_all() -> None:
    for name in ("fsync", "replace"):
        _patch(os, name, "rename" if name == "replace" else name)
    _patch_write(Path, "write_bytes")
    if _role == "decoder":  # it has neither a database nor a broker, and is short of memory
        return
    from celery.app.base import Celery
    from sqlalchemy.engine.default import DefaultDialect

    _patch(DefaultDialect, "do_commit", "commit")
    _patch(Celery, "send_task", "bell")
    if _role == "listener":
        from dicom_listener.spool import Spool

        _patch_write(Spool, "write")
    if _role == "deliver":
        from pynetdicom.association import Association

        _patch(Association, "send_c_store", "C-STORE")
        _patch(Association, "send_n_action", "N-ACTION")


def _warm_libfiu() -> None:
    """Have libfiu meet all its names while there is one thread.

    Where it meets one later, it holds its lock and asks the dynamic loader for strdup; a thread that loads
    a library holds the loader's lock and asks libfiu: both would wait for ever.
    """
    libraries = [name for name in os.environ.get("LD_PRELOAD", "").split() if "fiu_posix" in name]
    for library in libraries:
        for name in set(re.findall(rb"posix/[a-z0-9/_]+", Path(library).read_bytes())):
            ctypes.CDLL(None).fiu_fail(name)


if "FAKETIME_TIMESTAMP_FILE" in os.environ:  # libfaketime 0.9.10 refuses the call that time.sleep makes
    time.sleep = lambda seconds, /: select.select((), (), (), float(seconds)) and None
if _role:
    _warm_libfiu()
    _patch_all()
elif sys.orig_argv[-1] == "up":  # nobody trains here: torch aborts under libfiu, and no study waits for it
    sys.modules["torch"] = None  # type: ignore[assignment]
