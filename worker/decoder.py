"""A process of its own in which strangers' images are decoded, and which may die of them.

Native decoders crash on hostile bytes. The worker that owns a `Decoder` never reads those bytes itself: it
asks, waits no longer than allowed, and starts another process when one has died.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from hilum.errors import MachineAtFault, Undecodable
from hilum.pseudonyms import Deidentified, Pseudonyms

_START_S = 60  # imports on a busy machine
_CHILD = ("-P", "-m", "worker.decoder_child")  # -P: runs no module of the folder we stand in
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")  # and no passwords


@dataclass(frozen=True)
class Prepared:
    """What is known of an image once it was looked at."""

    not_assessed_because: str | None
    """Why nothing was kept in the folder; None when display.png and input.npy lie there."""
    view: str
    """A `hilum.eligibility.View`; empty when the header does not tell."""
    pixel_hash: str
    """`hilum.radiograph.pixel_hash`; empty when nothing had to be decoded."""


@dataclass(frozen=True)
class Spoken:
    """What an object says."""

    author: str
    """The person who says it, as the object writes the name; empty when it names none."""
    said_at: str
    """ISO 8601, with a zone; empty when the object does not say of which zone its time is."""
    labels: dict[str, str]
    """SOP Instance UID of what is meant -> one of `hilum.labels.VERDICTS`."""
    because: str | None
    """Why it says nothing, or nothing of some images; None when all is clear."""


class Decoder:
    """Asks a process of its own to decode; not for use by several threads at once.

    The process starts with the first image, is kept for the next ones, and dies with its owner.
    """

    def __init__(self, *, memory_mb: int, timeout_s: float) -> None:
        self._memory_mb = memory_mb
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0

    def prepare(self, path: Path, out: Path) -> Prepared:
        """Look at the image in a file; keep its display image and its network input when it may be read.

        Into `out` go display.png (8-bit gray, longest side at most 1,024) and input.npy
        ((224, 224) uint8, `hilum.radiograph.network_input`), durably. Nothing is decoded when the
        header alone says that the image is not assessed.

        Raises
        ------
        Undecodable
            If the file or its pixels cannot be read, or reading them killed the process, or took too
            much time or memory.
        OSError
            If our own disk fails; trying again may help.
        """
        return Prepared(**self._done({"task": "prepare", "path": str(path), "out": str(out)}))

    def deidentify(
        self, path: Path, out: Path, names: Pseudonyms, patient_id: str, *, looked_at: bool = False
    ) -> Deidentified:
        """Write the image in a DICOM file under pseudonyms into the file `out`, durably, or say why not.

        Written is what would be assessed at work and shows no text; one that a person has `looked_at` may.
        Of whom it is says `patient_id`, and not the file. Raises as `prepare` does.
        """
        request = {"task": "deidentify", "path": str(path), "out": str(out), "key": names.key.hex()}
        return Deidentified(**self._done(request | {"patient_id": patient_id, "looked_at": looked_at}))

    def spoken(self, path: Path) -> Spoken:
        """Return what a person says of images in a Key Object Selection or Structured Report.

        Raises as `prepare` does.
        """
        return Spoken(**self._done({"task": "spoken", "path": str(path), "out": ""}))

    def close(self) -> None:
        """End the process; the next image starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._served = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _done(self, request: dict[str, Any]) -> dict[str, Any]:
        stained = self._served > 0
        answer = self._ask(request)
        if "died" in answer and (stained or "SIGKILL" in answer["died"]):
            # alone: an earlier image may have done the damage, or the machine, which was short of memory
            answer = self._ask(request)
        if "done" in answer:
            done: dict[str, Any] = answer["done"]
            return done
        if "os_error" in answer:
            raise OSError(*answer["os_error"])
        raise Undecodable(answer.get("died") or answer["undecodable"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._running()
        try:
            cast(IO[bytes], process.stdin).write(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_line(process, self._timeout_s))
        except TimeoutError:
            self.close()
            return {"undecodable": f"decoding took longer than {self._timeout_s:g} s"}
        except (EOFError, BrokenPipeError):
            return {"died": f"the decoder died with {self._cause_of_death(process)}"}
        except BaseException:  # a time limit or a shutdown struck while we waited
            self.close()  # its answer must not be taken for the next image's
            raise
        self._served += 1
        if "out_of_memory" in answer:
            self.close()  # what it still holds could be the next image's lack
            return {"died": f"decoding needs more than {self._memory_mb} MB of memory"}
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = _start(self._memory_mb)
        return self._process

    def _cause_of_death(self, process: subprocess.Popen[bytes]) -> str:
        try:
            status = process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        self.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _start(memory_mb: int) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, *_CHILD, str(memory_mb), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment | {"OPENBLAS_NUM_THREADS": "1"},  # its threads would map memory in vain
        start_new_session=True,  # Ctrl-C is for the owner, who finishes the image first
    )
    try:
        _line(process, _START_S)
    except (EOFError, TimeoutError) as error:
        process.kill()
        process.communicate()
        raise MachineAtFault("the decoder does not start: its own words stand in the log above") from error
    return process


def _line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """The next line of its stdout; raises TimeoutError when it is late and EOFError when it is gone."""
    answers, deadline, line = cast(IO[bytes], process.stdout).fileno(), time.monotonic() + timeout_s, b""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        some = os.read(answers, 65_536)
        if not some:
            raise EOFError
        line += some
    return line
