"""The run: fault after fault while studies arrive, then the comparison and its table."""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from tests.faults.faults import Fault, Scene, faults
from tests.faults.ledger import Comparison, compare

STUDIES_PER_FAULT, FEWEST_FAULTS = 10, 8
RECOVERS_WITHIN_S = 60
GIVEN_UP_AFTER_S = 180
_POLL_S = 0.2

console = Console(width=110, highlight=False)


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
        self._given_up: set[str] = set()

    def run(self) -> bool:
        """Break, mend, wait, compare and print; True when all is as it should be."""
        for number, fault in enumerate(self._order(), start=1):
            recovery_s = self._round(fault, number)
            console.print(f"{number}/{self._faults} {fault.name}: recovered in {recovery_s:.1f} s")
        self._wait_until_final(set(self._scene.ledger.begun()), time.monotonic())
        self._scene.senders.stop()
        comparison = compare(self._scene.ledger, self._scene.site)
        return self._tell(comparison)

    def _order(self) -> list[Fault]:
        """Every kind once, in a random order, and then again."""
        order: list[Fault] = []
        while len(order) < self._faults:
            kinds = faults(self._scene.site)
            self._scene.rng.shuffle(kinds)
            order += kinds
        return order[: self._faults]

    def _round(self, fault: Fault, number: int) -> float:
        tally = self._tallies.setdefault(fault.name, Tally())
        share = self._left // (self._faults - number + 1)
        self._left -= share
        self._send(share - share // 2)
        time.sleep(self._scene.rng.uniform(0.3, 3.0))
        before = self._scene.ledger.open()
        known = self._scene.ledger.begun().keys()
        with fault.strikes(self._scene):
            self._send(share // 2)
            time.sleep(self._scene.rng.uniform(*fault.lasts_s))
            mended_at = time.monotonic()
            struck = before | (self._scene.ledger.begun().keys() - known)
        recovery_s = self._wait_until_final(struck, mended_at)
        tally.times += 1
        tally.in_flight |= struck
        tally.slowest_s = max(tally.slowest_s, recovery_s)
        return recovery_s

    def _send(self, studies: int) -> None:
        for _ in range(studies):
            self._scene.senders.hand(self._scene.drawer.study())

    def _wait_until_final(self, studies: set[str], since: float) -> float:
        while waiting := (self._scene.ledger.open() & studies) - self._given_up:
            if time.monotonic() > since + GIVEN_UP_AFTER_S:
                self._given_up |= waiting
                break
            time.sleep(_POLL_S)
        return time.monotonic() - since

    def _tell(self, comparison: Comparison) -> bool:
        for uid, complaints in [*comparison.lost.items(), *comparison.doubled.items()]:
            console.print(f"study {uid}: {'; '.join(complaints)}")
        console.print(self._table(comparison))
        times = sum(tally.times for tally in self._tallies.values())
        slowest_s = max(tally.slowest_s for tally in self._tallies.values())
        studies, lost, doubled = (
            len(each) for each in (self._scene.ledger.begun(), comparison.lost, comparison.doubled)
        )
        console.print(
            f"faults: {times} injected in {len(self._tallies)} kinds, {studies} studies, "
            f"{lost} lost, {doubled} doubled, slowest recovery {slowest_s:.0f} s"
        )
        return not comparison.lost and not comparison.doubled and slowest_s <= RECOVERS_WITHIN_S

    def _table(self, comparison: Comparison) -> Table:
        table = Table("fault", box=None)
        for heading in ("injected", "in flight", "lost", "doubled", "slowest recovery, s"):
            table.add_column(heading, justify="right")
        for name, tally in sorted(self._tallies.items()):
            lost, doubled = (tally.in_flight & each.keys() for each in (comparison.lost, comparison.doubled))
            counts = (tally.times, len(tally.in_flight), len(lost), len(doubled))
            table.add_row(name, *map(str, counts), f"{tally.slowest_s:.1f}")
        return table
