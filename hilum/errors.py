"""What can go wrong, split by who must act."""

from collections.abc import Sequence


class HilumError(Exception):
    """Something a person or a caller is told in words; its text says what to do."""

    in_detail: Sequence[str] = ()
    """More lines for the person at the terminal alone, and for no log: they may name patients."""


class SettingsError(HilumError):
    """The operator must change the configuration: the text names the setting and what it may be."""


class NetworkError(HilumError):
    """The operator must give another artefact: this one is broken, altered or not made for this version."""


class NotARadiograph(HilumError):
    """Nobody must act: the image is recorded as not assessed, with the text as the reason."""


class Undecodable(HilumError):
    """The sender's pixels cannot be read: the image is kept, marked with the text, and shown to people."""


class PacsUnavailable(HilumError):
    """Nobody must act yet: the destination is away, refuses or is slow, and we try again."""


class RefusedByPacs(HilumError):
    """The PACS administrator or ours must act: the destination will not have our objects as they are."""


class FailedAtPacs(HilumError):
    """Nobody must act yet: the destination is there, but failed at an object of ours; we try again."""


class NotUnderstoodByPacs(FailedAtPacs):
    """Likewise, a limited number of times; then the PACS administrator or ours must act."""


class MachineAtFault(HilumError):
    """The operator must mend this machine: its engine or decoder fails at any study; we try again."""


class StoreFull(HilumError):
    """The operator must make room: the file system of the store is at its watermark."""


class LeaseLost(HilumError):
    """Nobody must act: another worker has taken the work over, and this one's result is dropped."""


class Interrupted(HilumError):
    """Nobody must act: long work was told to stop and has kept its state; called again, it goes on."""
