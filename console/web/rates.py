"""How often somebody may do something: counted in this process, for as many as fit."""

import time
from collections import OrderedDict
from threading import Lock


class Rate:
    """So many times in so many seconds for each key; the longest unseen keys are forgotten first.

    Several consoles count apart: each of them lets so many through.
    """

    def __init__(self, times: int, per_s: float, *, keys: int = 10_000) -> None:
        self.times, self.per_s, self._most = times, per_s, keys
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = Lock()

    def count(self, key: str) -> None:
        """Note that it was done once more."""
        with self._lock:
            began, times = self._current(key)
            self._seen[key] = (began, times + 1)
            self._seen.move_to_end(key)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)

    def wait_s(self, key: str) -> float:
        """Seconds until it may be done again; 0 when it may be now."""
        with self._lock:
            began, times = self._current(key)
            return 0.0 if times < self.times else max(0.0, began + self.per_s - time.monotonic())

    def undo(self, key: str) -> None:
        """Count one time less: it was none to be counted."""
        with self._lock:
            began, times = self._current(key)
            self._seen[key] = (began, max(0, times - 1))

    def _current(self, key: str) -> tuple[float, int]:
        began, times = self._seen.get(key, (time.monotonic(), 0))
        return (began, times) if time.monotonic() < began + self.per_s else (time.monotonic(), 0)
