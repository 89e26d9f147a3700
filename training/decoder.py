"""Processes of their own in which images are decoded for training, and which may die of them.

A hospital's collection is large and its files are strangers': native decoders crash on some. Such a file is
named, and costs no other.
"""

import hashlib
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from hilum.eligibility import why_not_assessed
from hilum.errors import HilumError, MachineAtFault, Undecodable
from hilum.kernel import dying_with
from hilum.radiograph import (
    INPUT_SIZE,
    looks_like_a_frontal_chest,
    network_input,
    picture,
    to_display,
    without_blank_borders,
)

LONGEST_S = 120.0
"""An image that takes longer is given up."""
MEMORY_MB = 4096
_START_S = 60.0  # imports on a busy machine
_CHILD = ("-m", "training.decoder")
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG")  # and no passwords
_READY = b"ready\n"
_SIZE = INPUT_SIZE * INPUT_SIZE
_DICOM = slice(128, 132)  # where a DICOM file says DICM (PS3.10 7.1)


class Header(NamedTuple):
    """What a file says of its image; what is empty it does not say. Pictures (JPEG, PNG) say nothing."""

    sha256: str
    """Of the file."""
    patient: str = ""
    view: str = ""
    """PA or AP."""
    sex: str = ""
    """M or F."""
    age_years: str = ""
    """A decimal number."""
    not_assessed_because: str = ""
    """Why Hilum would not assess such an image at work; empty when it would."""


class Decoder:
    """Asks a process of its own to decode; not for use by several threads at once.

    The process starts with the first image and dies with the thread that asked for it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._served = 0

    def decode(self, file: Path) -> tuple[Header, NDArray[np.uint8]]:
        """Return what a file says, and its network input (224, 224).

        Raises Undecodable when the file cannot be read, or reading it killed the process or took too long;
        MachineAtFault when there is no such process.
        """
        stained = self._served > 0
        answer, pixels = self._asked(file)
        if not answer and stained:  # alone: an earlier image may have done the damage
            answer, pixels = self._asked(file)
        if not answer:
            raise Undecodable("its decoder died of it, or took too long")
        if "undecodable" in answer:
            raise Undecodable(answer["undecodable"])
        return Header(**answer), np.frombuffer(pixels, np.uint8).reshape(INPUT_SIZE, INPUT_SIZE)

    def _asked(self, file: Path) -> tuple[dict[str, Any], bytes]:
        """What the process says; nothing when it died."""
        process = self._process = self._process or _started()
        watch = threading.Timer(LONGEST_S, process.kill)
        watch.start()
        try:
            answered = _asked(process, file)
        except (EOFError, BrokenPipeError):
            self.close()
            return {}, b""
        finally:
            watch.cancel()
        self._served += 1
        return answered

    def close(self) -> None:
        """End the process; the next image starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process, self._served = None, 0


def _started() -> subprocess.Popen[bytes]:
    """A process that is ready; raises MachineAtFault when it does not get so: no image is to blame."""
    process = _begun()
    watch = threading.Timer(_START_S, process.kill)
    watch.start()
    ready = cast(IO[bytes], process.stdout).readline()
    watch.cancel()
    if ready != _READY:
        process.kill()
        process.communicate()
        raise MachineAtFault("the decoder does not start: its own words stand above")
    return process


def _begun() -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", *_CHILD, str(os.getpid())],  # -P: runs no module of the folder we stand in
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # one core a process
        start_new_session=True,  # Ctrl-C is for the owner
    )


def _asked(process: subprocess.Popen[bytes], file: Path) -> tuple[dict[str, Any], bytes]:
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    stdin.write(json.dumps(str(file)).encode() + b"\n")
    stdin.flush()
    line = stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, Any] = json.loads(line)
    pixels = b"" if "undecodable" in answer else stdout.read(_SIZE)
    if "undecodable" not in answer and len(pixels) < _SIZE:
        raise EOFError
    return answer, pixels


Outcome = tuple[Header, NDArray[np.uint8] | None] | str


def decoded(files: Sequence[Path], known: Collection[str]) -> Iterator[tuple[Path, Outcome]]:
    """Yield each file, in order, with its header and network input (224, 224), or why it cannot be used.

    There is no network input where the file's digest is among those known. As many processes work as
    there are cores.
    """
    count = min(len(os.sched_getaffinity(0)), len(files))
    decoders = [Decoder() for _ in range(count)]
    idle = SimpleQueue[Decoder]()
    for decoder in decoders:
        idle.put(decoder)

    def outcome(file: Path) -> Outcome:
        decoder = idle.get()
        try:
            return _outcome(decoder, file, known)
        finally:
            idle.put(decoder)

    threads = ThreadPoolExecutor(max(count, 1))
    try:
        yield from zip(files, threads.map(outcome, files), strict=True)
    finally:
        threads.shutdown(cancel_futures=True)
        for decoder in decoders:
            decoder.close()


def _outcome(decoder: Decoder, file: Path, known: Collection[str]) -> Outcome:
    try:
        if not file.is_file():
            return "it is no file"
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return (Header(digest), None) if digest in known else decoder.decode(file)
    except Undecodable as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def main() -> None:
    """Answer for each path, a line of JSON on stdin, with a line of JSON and the pixels on stdout."""
    dying_with(int(sys.argv[1]))()
    _limit()
    warnings.simplefilter("ignore")  # remarks on data sets quote patients' data
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with _own_stdout() as answers:
        answers.write(_READY)
        answers.flush()
        for line in sys.stdin:
            answers.write(_answer(Path(json.loads(line))))
            answers.flush()


def _limit() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + MEMORY_MB * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patient data


def _own_stdout() -> IO[bytes]:
    """The stdout we were given, for answers alone: decoders print there, and may print patient data."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


def _answer(file: Path) -> bytes:
    try:
        header, pixels = read(file.read_bytes())
    except MemoryError:
        return _line({"undecodable": f"decoding it takes more than {MEMORY_MB} MB of memory"})
    except (HilumError, OSError) as error:
        return _line({"undecodable": _in_a_line(error)})
    except Exception as error:  # the border with whoever made the file: parsing it raises anything
        return _line({"undecodable": f"it cannot be read: {_in_a_line(error)}"})
    return _line(header._asdict()) + pixels.tobytes()


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _in_a_line(error: Exception) -> str:
    words = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join("".join(each if each.isprintable() else " " for each in words).split())[:200]


def read(content: bytes) -> tuple[Header, NDArray[np.uint8]]:
    """Return what a DICOM, JPEG or PNG file says, and its network input (224, 224).

    It comes through `hilum.radiograph`, as at work. Raises what `to_display` does, and what pydicom may.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    if content[_DICOM] == b"DICM":
        ds = dcmread(io.BytesIO(content))
        header, display = _header(ds, sha256), to_display(ds)
    else:
        header, display = Header(sha256), without_blank_borders(picture(io.BytesIO(content)))
    because = header.not_assessed_because or looks_like_a_frontal_chest(display) or ""
    return header._replace(not_assessed_because=because), network_input(display)


def _header(ds: Dataset, sha256: str) -> Header:
    view, sex = str(ds.get("ViewPosition") or "").upper(), str(ds.get("PatientSex") or "").upper()
    return Header(
        sha256,
        patient=str(ds.get("PatientID") or "").strip(),
        view=view if view in ("PA", "AP") else "",
        sex=sex if sex in ("M", "F") else "",
        age_years=_age_years(ds),
        not_assessed_because=str(why_not_assessed(ds) or ""),
    )


def _age_years(ds: Dataset) -> str:
    """Patient's Age (PS3.5 6.2, AS), else the time between birth and study, as a number."""
    stated = re.fullmatch(r"(\d{3})([DWMY])", str(ds.get("PatientAge") or ""))
    if stated:
        return f"{int(stated[1]) / {'D': 365.25, 'W': 52.18, 'M': 12.0, 'Y': 1.0}[stated[2]]:.4g}"
    return age_years(str(ds.get("PatientBirthDate") or ""), str(ds.get("StudyDate") or ""))


def age_years(birth_date: str, study_date: str) -> str:
    """Return the age between two DICOM dates (YYYYMMDD) as a number; empty when one is none."""
    try:
        born, taken = (date.fromisoformat(value) for value in (birth_date, study_date))
    except ValueError:
        return ""
    return str(taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day)))


if __name__ == "__main__":
    main()
