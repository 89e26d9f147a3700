"""What all tasks share: claim the work, keep its lease, do it, and ring for what follows."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import jobs
from db.jobs import Claim
from db.session import transaction
from hilum.errors import HilumError, LeaseLost, MachineAtFault, NetworkError
from hilum.queue import ring
from hilum.settings import settings

log = logging.getLogger(__name__)

HELD_UP_S = 10.0
"""Pause of work that waits for the operator's machine."""
_PASSING = (MachineAtFault, NetworkError, OperationalError, InterfaceError, PoolTimeout)


@dataclass(frozen=True)
class Bell:
    """Work that is now due and whose workers are to be told."""

    kind: str
    subject: str
    urgent: bool = False


def work_on(kind: str, subject: str, steps: Callable[[Claim], Sequence[Bell]]) -> None:
    """Do a piece of work once: nothing happens when it is done, not due, or another holds it.

    The steps end with one transaction for their result, the end of the job and the next job, and
    return whom to ring after it. When they raise, the work is tried again later, and shown to
    people when it raised too often; what the machine is to blame for is not held against it.
    """
    with transaction() as session:
        claim = jobs.claim(session, kind, subject, lease_s=settings().lease_s)
        early_by_s = None if claim else jobs.too_early_by_s(session, kind, subject)
        if early_by_s is not None:
            urgent = jobs.note_bell(session, kind, subject, rings_in_s=early_by_s)
    if early_by_s is not None:
        ring(kind, subject, urgent=urgent, countdown_s=early_by_s + 0.05)
    for bell in _do(claim, steps) if claim else ():
        ring(bell.kind, bell.subject, urgent=bell.urgent)


def _do(claim: Claim, steps: Callable[[Claim], Sequence[Bell]]) -> Sequence[Bell]:
    leases = _leases(os.getpid())
    leases.keep(claim)
    try:
        return steps(claim)
    except LeaseLost as error:
        log.warning("%s", error)
    except Exception as error:  # whatever a study brings must not stop the others; it is counted and shown
        _note_failure(claim, error)
    finally:
        leases.drop(claim)
    return ()


def _note_failure(claim: Claim, error: Exception) -> None:
    because = str(error) if isinstance(error, HilumError) else f"{type(error).__name__}: {error}"
    is_passing = _is_passing(error)
    if is_passing:
        log.error("%s of %s is held up: %s", claim.kind, claim.subject, because)
    else:
        log.error("%s of %s failed", claim.kind, claim.subject, exc_info=error)
    try:
        with transaction() as session:
            if is_passing:
                jobs.put_off(session, claim, pause_s=HELD_UP_S, because=because)
            else:
                jobs.fail(session, claim, because=because)
    except LeaseLost as lost:
        log.warning("%s", lost)
    except SQLAlchemyError:
        log.exception("the database is away; the lease of %s runs out and the sweep frees it", claim.subject)


def _is_passing(error: Exception) -> bool:
    """Whether the machine is to blame and no study: its engine, its disk or its database.

    The only files that work opens are our own; an OSError without a number is a parser's, of what is in one.
    """
    return isinstance(error, _PASSING) or (isinstance(error, OSError) and error.errno is not None)


class _Leases:
    """The leases that this process holds, renewed by one thread while the work goes on."""

    def __init__(self) -> None:
        self._held: dict[str, Claim] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._renew_for_ever, name="leases", daemon=True).start()

    def keep(self, claim: Claim) -> None:
        with self._lock:
            self._held[claim.token] = claim

    def drop(self, claim: Claim) -> None:
        with self._lock:
            self._held.pop(claim.token, None)

    def _renew_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(settings().lease_s / 3):
            with self._lock:
                held = list(self._held.values())
            try:
                if held:
                    with transaction() as session:
                        jobs.renew(session, held, lease_s=settings().lease_s)
            except Exception:  # without this thread all that this process holds would count as dead
                log.exception("cannot renew %d leases", len(held))


@cache
def _leases(pid: int) -> _Leases:
    """One for each process: threads do not survive a fork."""
    return _Leases()
