"""The file that a received object streams into."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from dicom_listener.status import OUT_OF_RESOURCES, Refused
from hilum.errors import StoreFull

_MB = 1_000_000


class Spool:
    """Takes an object's bytes until they do not fit; from then on discards them and remembers why.

    pynetdicom writes into it from the thread that reads the network, where an error would end the
    association without an answer. Discarding the rest lets the handler answer.
    """

    def __init__(self, file: IO[bytes], *, most_mb: int, require_free: Callable[[], None]) -> None:
        self.name = file.name
        self.file = self  # pynetdicom flushes `.file` of a NamedTemporaryFile
        self.size_bytes = 0
        """Of the data set, without the File Meta Information before it."""
        self.fault: Refused | StoreFull | OSError | None = None
        self._file = file
        self._most_mb = most_mb
        self._try(require_free)
        self._try(file.flush)
        self.starts_at = file.tell()

    @property
    def path(self) -> Path:
        """The file: preamble, File Meta Information as we wrote it, and the sender's data set."""
        return Path(self.name)

    def write(self, content: bytes) -> None:
        """Add these bytes, or discard them."""
        self.size_bytes += len(content)
        if self.fault is None and self.size_bytes > self._most_mb * _MB:
            self.refuse(
                Refused(OUT_OF_RESOURCES, f"the object is larger than max_object_mb = {self._most_mb}")
            )
        self._try(lambda: self._add(content))

    def refuse(self, because: Refused | StoreFull | OSError) -> None:
        """Discard what came and what comes."""
        self.fault = because
        with suppress(OSError):
            os.ftruncate(self._file.fileno(), 0)  # others may need the room at once

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def close(self) -> None:
        """Close the file; more than once does no harm."""
        with suppress(OSError):  # what a full disk did not take is not wanted any more
            self._file.close()

    def require_whole(self) -> None:
        """Close the file, and raise what kept it from taking the whole object."""
        self.close()
        if self.fault is not None:
            raise self.fault

    def drop(self) -> None:
        """Remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _add(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def _try(self, step: Callable[[], object]) -> None:
        if self.fault is None:
            try:
                step()
            except (StoreFull, OSError) as error:
                self.refuse(error)
