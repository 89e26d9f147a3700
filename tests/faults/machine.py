"""The machine under our processes, when its disk fails or its clock jumps: by libfiu and libfaketime."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

EIO, ENOSPC = 5, 28  # errno(3)
SHARE = 0.2
"""How many of a process's calls fail while its disk does."""
CALLS = {
    "read": ("posix/io/rw/read", "posix/io/rw/pread"),
    "write": ("posix/io/rw/write", "posix/io/rw/pwrite"),
    "fsync": ("posix/io/sync/fsync", "posix/io/sync/fdatasync"),
    "rename": ("posix/io/dir/rename",),
}
"""What can fail -> libfiu's names of the calls. Files and pipes are read and written by the same calls."""

_LIBRARIES = Path("/usr/lib")
_PATIENCE_S = 5


class Machine:
    """Disk and clock of the processes that are started in `environment`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._control, self._clock = folder / "fiu", folder / "clock"
        disk = [*_LIBRARIES.glob("fiu/fiu_run_preload.so"), *_LIBRARIES.glob("fiu/fiu_posix_preload.so")]
        clock = [*_LIBRARIES.glob("*/faketime/libfaketimeMT.so.1")]
        self.has_disk, self.has_clock = len(disk) == 2, bool(clock)
        """Whether libfiu and libfaketime are installed."""
        self._set(0)
        self.environment = {
            "LD_PRELOAD": " ".join(map(str, [*disk, *clock])),
            "FIU_CTRL_FIFO": str(self._control),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    @contextmanager
    def failing(self, pid: int, call: str, rng: Random) -> Iterator[None]:
        """Have some of these calls of a process fail."""
        error = rng.choice([EIO, ENOSPC]) if call == "write" else EIO
        for name in CALLS[call]:
            self._tell(pid, f"enable_random name={name},probability={SHARE},failinfo={error}")
        yield
        for name in CALLS[call]:
            self._tell(pid, f"disable name={name}")

    @contextmanager
    def clock_off_by(self, seconds: int) -> Iterator[None]:
        """Set the clock of all processes forward, or back; and right again at the end."""
        self._set(seconds)
        yield
        self._set(0)

    def _tell(self, pid: int, command: str) -> None:
        """Tell libfiu in this process, which may have died of it."""
        told = ["timeout", str(_PATIENCE_S), "fiu-ctrl", "-f", str(self._control), "-c", command, str(pid)]
        subprocess.run(told, capture_output=True)

    def _set(self, seconds: int) -> None:
        aside = self._clock.with_suffix(".aside")
        aside.write_text(f"{seconds:+d}\n")
        aside.replace(self._clock)
