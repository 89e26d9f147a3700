"""The siege: kind after kind of attack on the whole system, while a genuine sender wants in all the time."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from hilum.settings import settings
from tests.hostile import conversation, objects, requests
from tests.hostile.idlers import STILL_OPEN, idle_associations, silent_connections, slow_senders
from tests.hostile.wire import (
    GENUINE,
    RELEASE,
    Caller,
    storage,
    store_message,
)
from tests.integration.radiographs import radiograph
from tests.peers.helpers import free_port
from tests.peers.scu import Parcel, parcel, parcel_of
from tests.peers.system import System, with_argument

console = Console(width=160, highlight=False)

ANSWERED_WITHIN_S = 5.0
GROWS_LESS_THAN_MB = 256
SILENT = 500
_ATTACKERS = 8
_PATIENCE_S = 0.25
"""For an answer that may never come, since what was sent says that there is more."""
_PATIENCE_OF_A_CALLER_S = 1.0
"""For an answer that comes at once, if it comes."""
_LONG_PATIENCE_S = 20.0
"""For the answer to a whole object."""
_BETWEEN_GENUINE_S = 0.4
_SUCCESS = "0x0000"


@dataclass(frozen=True)
class Attack:
    """What one caller sends, step after step, waiting for an answer after each."""

    steps: list[bytes]
    patience_s: float = _PATIENCE_S
    refused: bool = False
    """Whether Success would be a lie."""
    leaves: bool = False
    """Whether the caller hangs up at once after the last step."""


@dataclass
class Tally:
    """What became of one kind of attack."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    lies: int = 0
    """Successes about what was cut short or named a path."""
    slowest_genuine_s: float = 0.0


class Genuine:
    """A sender who does as all should, from an address of its own, again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._took_s: list[float] = []
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def slowest_s(self) -> float:
        """The longest that an object took since this was last asked, connecting and refusals included."""
        self._wait_for_one_more()
        took_s, self._took_s = self._took_s, []
        return max(took_s)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _wait_for_one_more(self) -> None:
        before, until = len(self._took_s), time.monotonic() + 60
        while len(self._took_s) == before:
            assert time.monotonic() < until, "no genuine object gets in any more"
            time.sleep(0.05)

    def _send_all(self) -> None:
        while not self._stopped.wait(_BETWEEN_GENUINE_S):
            began, image = time.monotonic(), parcel(radiograph(SOPClassUID=conversation.CT, Modality="CT"))
            while send(self._port, image) != _SUCCESS and not self._stopped.wait(0.05):
                pass
            self._took_s.append(time.monotonic() - began)


class Siege:
    """One run against a system that has been started."""

    def __init__(
        self, system: System, folder: Path, *, seed: str, answered_within_s: float = ANSWERED_WITHIN_S
    ) -> None:
        self._port = settings().listener_port
        self._rng = Random(seed)
        self._folder = folder
        self._answered_within_s = answered_within_s
        self.tallies: dict[str, Tally] = {}
        self._pids = {"listener": listener_pid(system), "classify": system.pids("classify")[0]}
        self._system = system
        self._memory_mb = memory_mb(self._pids["listener"], "VmRSS")
        self._genuine = Genuine(self._port)

    def run(self, *, pdus: int, cut_every: int, files: Path | None) -> None:
        """Attack in every way; `pdus` are fuzzed, a conversation is cut off at each `cut_every` bytes."""
        with silent_connections(self._port, SILENT):
            for kind, attacks in self._attacks(pdus, cut_every, files):
                self._besiege(kind, attacks)
        for kind, hold in (("idle associations", idle_associations), ("slow senders", slow_senders)):
            self._hold(kind, hold)
        self._genuine.stop()

    def complaints(self) -> list[str]:
        """What is not as it should be, in words; empty when all is."""
        grown_mb = memory_mb(self._pids["listener"], "VmHWM") - self._memory_mb
        told = [f"the listener grew by {grown_mb} MB"] if grown_mb >= GROWS_LESS_THAN_MB else []
        now = {"listener": listener_pid(self._system), "classify": self._system.pids("classify")[0]}
        told += [f"the {name} process died" for name in now if now[name] != self._pids[name]]
        for kind, tally in self.tallies.items():
            if tally.lies:
                told.append(f"{kind}: {tally.lies} times Success where it is a lie")
            if still_open := tally.answers[STILL_OPEN]:
                told.append(f"{kind}: {still_open} were never cut off")
            if tally.slowest_genuine_s > self._answered_within_s:
                told.append(f"{kind}: a genuine object took {tally.slowest_genuine_s:.1f} s")
        return told

    def tell(self, complaints: list[str]) -> None:
        """Print the table and the last line."""
        table = Table("kind", box=None)
        for heading in ("sent", "answers", "slowest genuine answer, s"):
            table.add_column(heading, justify="left" if heading == "answers" else "right")
        for kind, tally in self.tallies.items():
            answers = ", ".join(f"{count} {answer}" for answer, count in tally.answers.most_common(6))
            table.add_row(kind, str(tally.sent), answers, f"{tally.slowest_genuine_s:.2f}")
        console.print(table)
        for complaint in complaints:
            console.print(complaint)
        grown_mb = memory_mb(self._pids["listener"], "VmHWM") - self._memory_mb
        slowest_s = max(tally.slowest_genuine_s for tally in self.tallies.values())
        sent = sum(tally.sent for tally in self.tallies.values())
        console.print(
            f"hostile: {sent} sent in {len(self.tallies)} kinds, "
            f"listener grew by {grown_mb} MB, slowest genuine answer {slowest_s:.1f} s, "
            f"{len(complaints)} complaints"
        )

    def _attacks(
        self, pdus: int, cut_every: int, files: Path | None
    ) -> Iterator[tuple[str, Iterable[Attack]]]:
        small = {"Rows": 8, "Columns": 8, "PixelData": bytes(128)}
        image = parcel(radiograph(SOPClassUID=conversation.CT, Modality="CT", **small))
        whole = [storage(image.sop_class_uid), message_of(image), RELEASE]
        cuts = range(1, 10_000, 97 * cut_every)
        yield "lengths before an association", map(Attack, requests.lengths_before_an_association())
        odd = requests.odd_associations()
        yield "odd associations", [Attack(steps, _PATIENCE_OF_A_CALLER_S) for steps in odd]
        odd = requests.odd_messages(image)
        yield "odd messages", [Attack(steps, _PATIENCE_OF_A_CALLER_S) for steps in odd]
        for kind, made in objects.all_of_them(cuts).items():
            yield kind, [object_attack(each.parcel, refused=each.refused) for each in made]
        if files:
            found = sorted(files.rglob("*.dcm"))
            malformed = [parcel_of(path) for path in found]
            yield "malformed files", map(object_attack, malformed)
            yield (
                "the same as radiographs",
                [object_attack(objects.as_radiograph(each)) for each in malformed],
            )
        of_each = max(4, pdus // 250)
        broken = objects.broken_codestreams(self._rng, of_each)
        yield "broken codestreams", [object_attack(each.parcel) for each in broken]
        yield (
            "cut off at a byte",
            [Attack(steps, leaves=True) for steps in requests.cut_off(whole, cut_every)],
        )
        yield "fuzzed PDUs", self._fuzzed(pdus)

    def _fuzzed(self, pdus: int) -> Iterator[Attack]:
        conversations = conversation.record(self._port, self._folder)
        for _ in range(pdus):
            yield Attack(conversation.fuzzed(self._rng.choice(conversations), self._rng))

    def _besiege(self, kind: str, attacks: Iterable[Attack]) -> None:
        tally = self.tallies[kind] = Tally()
        self._genuine.slowest_s()
        with ThreadPoolExecutor(_ATTACKERS) as crowd:
            for attack, answers in crowd.map(lambda attack: (attack, play(self._port, attack)), attacks):
                tally.sent += 1
                tally.answers[_telling(answers)] += 1
                tally.lies += attack.refused and _SUCCESS in answers
        tally.slowest_genuine_s = self._genuine.slowest_s()

    def _hold(self, kind: str, hold: Callable[[int], Counter[str]]) -> None:
        self._genuine.slowest_s()
        answers = hold(self._port)
        self.tallies[kind] = Tally(answers.total(), answers, 0, self._genuine.slowest_s())


def play(port: int, attack: Attack) -> list[str]:
    """Send it, and return the answers until the connection ended."""
    answers: list[str] = []
    try:
        with Caller(port) as caller:
            for number, step in enumerate(attack.steps, start=1):
                if not caller.send(step):
                    return [*answers, "closed"]
                if attack.leaves and number == len(attack.steps):
                    caller.close(rudely=len(step) % 2 == 1)
                    return [*answers, "left"]
                answers.append(caller.answer(attack.patience_s))
                if answers[-1] in ("closed", "aborted", "rejected"):
                    return answers
    except OSError:
        answers.append("not connected")
    return answers


def _telling(answers: list[str]) -> str:
    """The last status, or else the last answer."""
    statuses = [answer for answer in answers if answer.startswith("0x")]
    return (statuses or answers or ["nothing"])[-1]


def send(port: int, image: Parcel) -> str:
    """The answer to a genuine C-STORE on an association of its own."""
    try:
        with Caller(port, GENUINE) as caller:
            caller.send(storage(image.sop_class_uid, image.transfer_syntax_uid))
            if (answer := caller.answer(ANSWERED_WITHIN_S)) != "accepted":
                return answer
            caller.send(message_of(image))
            answer = caller.answer(ANSWERED_WITHIN_S)
            caller.send(RELEASE)
            return answer
    except OSError:
        return "not connected"


def object_attack(image: Parcel, *, refused: bool = False) -> Attack:
    """This object sent as a client would, on an association of its own."""
    begin = storage(image.sop_class_uid, image.transfer_syntax_uid)
    return Attack([begin, message_of(image), RELEASE], _LONG_PATIENCE_S, refused)


def message_of(image: Parcel) -> bytes:
    return store_message(image.sop_class_uid, image.uid, image.content)


def listener_pid(system: System) -> int:
    """The one listener process."""
    [pid] = with_argument("dicom_listener", parents={system.pid})
    return pid


def memory_mb(pid: int, what: str) -> int:
    """`VmRSS`, what a process holds in memory now, or `VmHWM`, the most it ever held; MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) // 1024


def site_settings(folder: Path) -> dict[str, object]:
    """Settings of the system that is besieged: everything in this folder, and little patience."""
    return {
        "data_dir": folder / "d",
        "listener_port": free_port(),
        "settle_s": 1.0,
        "sweep_s": 1.0,
        "idle_timeout_s": 6.0,
        "decode_timeout_s": 10.0,
        "keep_free_mb": 64,
        "prepare_processes": 1,
    }
