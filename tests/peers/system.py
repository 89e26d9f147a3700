"""The whole system as an operator starts it: `hilum up`, with a broker and a database of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis

from hilum.settings import settings
from tests.peers.dcmtk import dcmsend
from tests.peers.helpers import answers, end, wait_for

STARTS_WITHIN_S = 120
STOPS_WITHIN_S = 60


class System:
    """All processes on this machine, on the settings in force when it is started."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to what the processes get of this one's."""
        self._log = folder / "up.log"
        self._environment = os.environ | dict(environment or {})
        self.start()

    def start(self) -> None:
        seen = len(self.log())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("hilum"), "up"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        wait_for(lambda: self._has_started(seen), STARTS_WITHIN_S, "hilum up")

    def stop(self) -> int:
        """Stop everything as Ctrl-C does, and return the exit status."""
        return end(self._process, grace_s=STOPS_WITHIN_S)

    def kill_everything(self) -> None:
        """Kill `hilum up` with -9, and with it all that it has started."""
        self._process.kill()
        self._process.wait()
        wait_for(lambda: not answers(settings().listener_port), what="the listener's end")

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def send(self, *paths: Path, calling: str = "MODALITY") -> subprocess.CompletedProcess[str]:
        """Send files and folders to the listener with DCMTK."""
        return dcmsend(settings().listener_port, *paths, calling=calling)

    def pids(self, name: str) -> list[int]:
        """The worker of this name (`classify`), and after it its own children."""
        [worker] = with_argument(f"{name}@%h", parents={self._process.pid})
        return [worker, *with_argument(f"{name}@%h", parents={worker})]

    def kill(self, name: str) -> None:
        """Kill a worker with -9; the supervisor starts it again."""
        os.kill(self.pids(name)[0], signal.SIGKILL)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Have a worker stand still: what is sent to it meanwhile waits in the broker."""
        worker = self.pids(name)[0]
        os.kill(worker, signal.SIGSTOP)
        yield
        os.kill(worker, signal.SIGCONT)

    def messages(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with self._broker() as client:
            return int(client.llen(queue))

    def empty_broker(self) -> None:
        """Lose every message that waits."""
        with self._broker() as client:
            client.flushall()

    def _broker(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(settings().embedded_socket))

    def _has_started(self, seen: int) -> bool:
        assert self._process.poll() is None, self.log()[-5000:]
        started = "processes started" in self.log()[seen:]
        return started and answers(settings().listener_port)


def with_argument(text: str, *, parents: set[int]) -> list[int]:
    """Children of these processes that were started with this argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (folder / "cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if parent in parents and text in arguments:
            found.append(int(folder.name))
    return sorted(found)
