"""Bells, rung outside an answer's way: a broker that is away costs half a second each."""

import logging
from queue import Full, Queue
from threading import Thread

from hilum.queue import PREPARE, ring

log = logging.getLogger(__name__)

_MOST_WAITING = 1000
_EARLY_S = 0.05  # a bell that came before its job is due would have to be rung again


class Bells:
    """Rings for studies from a thread of its own; what it cannot ring for is found by the sweep."""

    def __init__(self) -> None:
        self._waiting: Queue[tuple[str, str, bool, float] | None] = Queue(_MOST_WAITING)
        self._thread = Thread(target=self._ring_all, name="bells", daemon=True)
        self._thread.start()

    def ring(self, study_uid: str, *, urgent: bool, settle_s: float) -> None:
        """Have the study prepared once it has settled."""
        self._put(PREPARE, study_uid, urgent, settle_s + _EARLY_S)

    def ring_now(self, kind: str, subject: str, *, urgent: bool = False) -> None:
        """Have other work done that is due."""
        self._put(kind, subject, urgent, 0)

    def stop(self, patience_s: float) -> None:
        """Ring what waits, for this long at most."""
        try:
            self._waiting.put_nowait(None)
        except Full:
            return
        self._thread.join(patience_s)

    def _put(self, kind: str, subject: str, urgent: bool, countdown_s: float) -> None:
        try:
            self._waiting.put_nowait((kind, subject, urgent, countdown_s))
        except Full:
            log.warning("too many bells wait; the sweep will ring for %s of %s", kind, subject)

    def _ring_all(self) -> None:
        while (bell := self._waiting.get()) is not None:
            kind, subject, urgent, countdown_s = bell
            try:
                ring(kind, subject, urgent=urgent, countdown_s=countdown_s)
            except Exception:  # the border with the broker's client: no bell may silence those after it
                log.exception("cannot ring for %s of %s; the sweep will", kind, subject)
