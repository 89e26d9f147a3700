"""The time that a training may take."""

import math
from time import monotonic


class Budget:
    """So many seconds in all, of which some are left; it goes by a clock that nobody sets."""

    def __init__(self, total_s: float = math.inf, left_s: float = math.inf) -> None:
        self._total_s, self._ends_s = total_s, monotonic() + left_s

    @property
    def is_over(self) -> bool:
        return monotonic() >= self._ends_s

    @property
    def used(self) -> float:
        """The part that is used up, in [0, 1]: 0 of an endless one."""
        left = (self._ends_s - monotonic()) / self._total_s if self._total_s < math.inf else 1.0
        return min(1.0, max(0.0, 1 - left))


ENDLESS = Budget()
