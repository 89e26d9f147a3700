"""The control: the same kills against plain `task.delay()` with acks_late and reject_on_worker_lost.

No rows say what is to be done: what a message held is lost with the message. Kills come as in the rig,
one after another while studies arrive; at the end every message that will ever come again has come.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tests.faults.control_app import STAGES, VISIBILITY_TIMEOUT_S, WORK, database
from tests.faults.table import Findings, counted
from tests.peers.broker import Broker
from tests.peers.helpers import end, wait_for
from tests.peers.system import with_argument

ROOT = Path(__file__).parents[2]
STUDIES_PER_KILL = 10
PROCESSES = 4
PATIENCE_S = 180
QUIET_S = 4 * VISIBILITY_TIMEOUT_S
"""So long without any progress: no message is due to be delivered again."""


def run(folder: Path, rng: Random, studies: int, findings: Findings) -> bool:
    """Send studies through plain Celery, kill what works at them, and say how many it lost or did twice."""
    plain = _Plain(folder, rng)
    try:
        for number in range(1, studies + 1):
            plain.send(f"study {number}")
            if number % STUDIES_PER_KILL == 0:
                plain.kill_something()
        plain.wait_until_quiet()
        lost, doubled = plain.lost(), plain.doubled()
    finally:
        plain.stop()
    findings.tables = [counted("killed", plain.kills)]
    findings.last_line = (
        f"control: {plain.kills.total()} injected in {len(plain.kills)} kinds, {studies} studies, "
        f"{lost} lost, {doubled} done twice"
    )
    return True


class _Plain:
    """A broker, a worker with some processes, and a sender that tries again until the broker has taken it."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.kills: Counter[str] = Counter()
        self._rng = rng
        self._sent: list[str] = []
        (folder / "broker").mkdir()
        self._broker = Broker(folder / "broker")
        self._app = Celery(broker=self._broker.url, broker_transport_options={"max_retries": 1})
        self._done, self._log = folder / "done.sqlite", folder / "worker.log"
        database(self._done).close()
        self._start_worker()

    def send(self, study: str) -> None:
        """As `work.delay(study, 0)` does, and again until it succeeds."""
        while True:
            try:
                self._app.send_task(WORK, (study, 0), queue="control", ignore_result=True)
                break
            except (OperationalError, OSError, redis.RedisError):
                time.sleep(0.2)
        self._sent.append(study)
        time.sleep(self._rng.uniform(0.1, 0.5))  # the worker could do twice as many

    def kill_something(self) -> None:
        """Kill as the rig does, and start again what does not do so by itself."""
        kills = {
            "SIGTERM worker": lambda: self._end_worker(signal.SIGTERM),
            "broker emptied": self._broker.empty,
            "kill -9 broker": self._kill_broker,
            "kill -9 child": self._kill_child,
            "kill -9 everything": self._kill_everything,
            "kill -9 worker": lambda: self._end_worker(signal.SIGKILL),
        }
        name = self._rng.choice(list(kills))
        kills[name]()
        self.kills[name] += 1
        wait_for(
            lambda: self._waiting() <= STUDIES_PER_KILL, PATIENCE_S, "most of the queue to be worked off"
        )

    def wait_until_quiet(self) -> None:
        """Return when nothing has been done for so long that nothing more can come."""
        before, moved_at = -1, time.monotonic()
        while time.monotonic() < moved_at + QUIET_S:
            if (done := self._times().total()) != before:
                before, moved_at = done, time.monotonic()
            time.sleep(0.5)

    def lost(self) -> int:
        """Studies whose last stage was never done."""
        times = self._times()
        return sum(not times[study, STAGES[-1]] for study in self._sent)

    def doubled(self) -> int:
        """Studies of which some stage was done more than once."""
        return len({study for (study, _), times in self._times().items() if times > 1})

    def stop(self) -> None:
        end(self._worker)
        self._broker.stop()

    def _times(self) -> Counter[tuple[str, str]]:
        with closing(sqlite3.connect(self._done)) as connection:
            return Counter(connection.execute("SELECT study, stage FROM done").fetchall())

    def _waiting(self) -> int:
        return len(self._broker.messages("control"))

    def _start_worker(self) -> None:
        arguments = ["-A", "tests.faults.control_app", "worker", "-c", str(PROCESSES), "-n", "control@%h"]
        surroundings = {"CONTROL_BROKER": self._broker.url, "CONTROL_DATABASE": str(self._done)}
        with self._log.open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                cwd=ROOT,
                env=os.environ | surroundings,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._children, PATIENCE_S, "the worker's processes")

    def _children(self) -> list[int]:
        return with_argument("control@%h", parents={self._worker.pid})

    def _kill_child(self) -> None:
        os.kill(self._rng.choice(self._children()), signal.SIGKILL)

    def _end_worker(self, number: signal.Signals) -> None:
        os.kill(self._worker.pid, number)
        self._worker.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._worker.pid, signal.SIGKILL)  # as a supervisor does with what is left of it
        self._start_worker()

    def _kill_broker(self) -> None:
        with redis.Redis.from_url(self._broker.url) as client:
            os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        self._broker.start()

    def _kill_everything(self) -> None:
        self._kill_broker()
        self._end_worker(signal.SIGKILL)
