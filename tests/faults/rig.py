"""The run: fault after fault while studies arrive, then the comparison and its table."""

import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console

from tests.faults.faults import Fault, Missed, Scene, faults
from tests.faults.ledger import Comparison, compare
from tests.faults.table import WIDTH, Findings, Rows, counted

STUDIES_PER_FAULT, FEWEST_FAULTS = 10, 8
RECOVERS_WITHIN_S = 60
GIVEN_UP_AFTER_S = 180
_POLL_S = 0.2

progress = Console(width=WIDTH, highlight=False, stderr=True)


@dataclass
class Tally:
    """What one kind of fault has done."""

    times: int = 0
    in_flight: set[str] = field(default_factory=set)
    """Studies that a sender had begun with and that were not final while it lasted."""
    slowest_s: float = 0.0


class Rig:
    """Breaks one thing after another while studies arrive.

    Recovery is the time from the moment when mending begins until every study that a sender had begun
    with by then is final: acknowledged, whole, delivered to both PACSs, and without work left.
    """

    def __init__(self, scene: Scene, studies: int) -> None:
        self._scene, self._left = scene, studies
        self._faults = max(FEWEST_FAULTS, studies // STUDIES_PER_FAULT)
        self._tallies: dict[str, Tally] = {}
        self._places: Counter[str] = Counter()
        """Where processes died of failpoints."""
        self._missed: Counter[str] = Counter()
        """Failpoints that no process came to."""
        self._given_up: set[str] = set()

    def run(self, findings: Findings) -> bool:
        """Break, mend, wait and compare; `findings` get what came of it. True when all is as it should be."""
        began_at = time.monotonic()
        for number, fault in enumerate(self._order(), start=1):
            what = self._round(fault, number)
            left_min = (time.monotonic() - began_at) / number * (self._faults - number) / 60
            told = f"{time.strftime('%H:%M:%S')} {number}/{self._faults} {fault.name}: {what}"
            progress.print(f"{told}; about {left_min:.0f} minutes left", soft_wrap=True)
        self._wait_until_final(set(self._scene.ledger.begun()), time.monotonic())
        self._scene.senders.stop()
        return self._tell(compare(self._scene.ledger, self._scene.site), findings)

    def _order(self) -> list[Fault]:
        """Every kind once, in a random order, and then again."""
        order: list[Fault] = []
        while len(order) < self._faults:
            kinds = faults(self._scene.site)
            self._scene.rng.shuffle(kinds)
            order += kinds
        return order[: self._faults]

    def _round(self, fault: Fault, number: int) -> str:
        """Send some studies, make this fault amid them, and say how it went."""
        share = self._left // (self._faults - number + 1)
        self._left -= share
        self._send(share - share // 2)
        time.sleep(self._scene.rng.uniform(0.3, 3.0))
        before = self._scene.ledger.open()
        known = self._scene.ledger.begun().keys()
        try:
            with fault.strikes(self._scene):
                self._send(share // 2)
                time.sleep(self._scene.rng.uniform(*fault.lasts_s))
                mended_at = time.monotonic()
                struck = before | (self._scene.ledger.begun().keys() - known)
        except Missed:
            self._send(share // 2)
            self._wait_until_final(set(self._scene.ledger.begun()), time.monotonic())
            self._missed[fault.name] += 1
            return "missed"
        recovery_s = self._wait_until_final(struck, mended_at)
        tally = self._tallies.setdefault(fault.name, Tally())
        tally.times += 1
        tally.in_flight |= struck
        tally.slowest_s = max(tally.slowest_s, recovery_s)
        return f"{self._where(fault)}recovered in {recovery_s:.1f} s"

    def _where(self, fault: Fault) -> str:
        """Where a failpoint struck."""
        if not fault.is_failpoint:
            return ""
        place = self._scene.site.failpoints.place()
        self._places[place] += 1
        return f"{place}; "

    def _send(self, studies: int) -> None:
        for _ in range(studies):
            self._scene.senders.hand(self._scene.drawer.study())

    def _wait_until_final(self, studies: set[str], since: float) -> float:
        while waiting := (self._scene.ledger.open() & studies) - self._given_up:
            if time.monotonic() > since + GIVEN_UP_AFTER_S:
                progress.print(f"given up: {', '.join(sorted(waiting))}", soft_wrap=True)
                self._given_up |= waiting
                break
            time.sleep(_POLL_S)
        return time.monotonic() - since

    def _tell(self, comparison: Comparison, findings: Findings) -> bool:
        for uid, complaints in [*comparison.lost.items(), *comparison.doubled.items()]:
            progress.print(f"study {uid}: {'; '.join(complaints)}", soft_wrap=True)
        injected = sum(tally.times for tally in self._tallies.values())
        slowest_s = max((tally.slowest_s for tally in self._tallies.values()), default=0.0)
        studies, lost, doubled = (
            len(each) for each in (self._scene.ledger.begun(), comparison.lost, comparison.doubled)
        )
        findings.tables = [self._rows(comparison)]
        for heading, times in (("killed", self._places), ("missed", self._missed)):
            if times:
                findings.tables.append(counted(heading, times))
        findings.last_line = (
            f"faults: {injected} injected in {len(self._tallies)} kinds, {studies} studies, "
            f"{lost} lost, {doubled} doubled, slowest recovery {slowest_s:.0f} s"
        )
        return not comparison.lost and not comparison.doubled and slowest_s <= RECOVERS_WITHIN_S

    def _rows(self, comparison: Comparison) -> Rows:
        rows = [["fault", "injected", "studies in flight", "lost", "doubled", "slowest recovery, s"]]
        for name, tally in sorted(self._tallies.items()):
            lost, doubled = (tally.in_flight & each.keys() for each in (comparison.lost, comparison.doubled))
            counts = (tally.times, len(tally.in_flight), len(lost), len(doubled))
            rows.append([name, *map(str, counts), f"{tally.slowest_s:.1f}"])
        return rows
