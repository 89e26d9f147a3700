"""How full the store's disk is, and when senders are kept out at the present rate."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from db import studies
from hilum.settings import Settings

MADE_MB = 4.0
"""What is made of an image and kept beside it: what is prepared, and the heat map."""
_MB = 1_000_000


@dataclass(frozen=True)
class Disk:
    """Space on the store's file system, MB; `added_mb` is what the last day has brought."""

    folder: Path
    size_mb: float
    free_mb: float
    least_free_mb: float
    added_mb: float

    @property
    def used(self) -> float:
        """The share of the disk that is used, in [0, 1]."""
        return 1 - self.free_mb / self.size_mb

    @property
    def days_left(self) -> float | None:
        """Days until senders are kept out, if all days are like the last; None when nothing was added."""
        if self.added_mb <= 0:
            return None
        return max(0.0, (self.free_mb - self.least_free_mb) / self.added_mb)

    def words(self) -> str:
        """All of it in a line."""
        return f"{self.free_mb / 1000:.1f} GB free, {self.used:.0%} used{self._outlook()}"

    def _outlook(self) -> str:
        if self.free_mb < self.least_free_mb:
            return "; senders are kept out"
        if self.days_left is None:
            return ""
        return f"; senders are kept out in {self.days_left:.0f} days at the rate of the last day"


def disk(session: Session, ours: Settings) -> Disk:
    """The store's disk now. Raises OSError when it cannot be asked."""
    usage = shutil.disk_usage(ours.store)
    images, size_bytes = studies.received_in(session, 86_400)
    return Disk(
        ours.store,
        usage.total / _MB,
        usage.free / _MB,
        ours.least_free_mb,
        size_bytes / _MB + images * MADE_MB,
    )
