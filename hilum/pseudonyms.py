"""Names that stand for patients, objects and places in what leaves the hospital.

They follow from the true ones by a key that stays here: the same key gives the same names in every export,
and without it nobody can compute one from the other.
"""

import hashlib
import hmac
import os
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hilum.errors import SettingsError
from hilum.kernel import fsync

KEY_FILE = "pseudonyms.key"
"""In the data folder; whoever has it can tell who is who in every export and snapshot."""
_KEY_BYTES = 32


class Pseudonyms:
    """What this key makes of true names: HMAC-SHA-256 (RFC 2104), one for each kind of name."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def key(self) -> bytes:
        return self._key

    def uid(self, uid: str) -> str:
        """Return the UID that stands for a UID: 2.25 and a UUID as a decimal (PS3.5 B.2)."""
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}"

    def patient(self, patient_id: str) -> str:
        """Return the patient id that stands for one: P and 20 digits or letters."""
        return f"P{self._digest('patient', patient_id).hex()[:20].upper()}"

    def source(self, sender_ae: str) -> str:
        """Return the name that stands for where images came from."""
        return f"source-{self._digest('source', sender_ae).hex()[:10]}"

    def shift(self, patient_id: str) -> timedelta:
        """Return by what all times of a patient are moved: back, by 1 to 365 days, to the second."""
        number = int.from_bytes(self._digest("shift", patient_id)[:8])
        return -timedelta(days=1, seconds=number % (364 * 86_400))

    def _digest(self, kind: str, name: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{name}".encode(), hashlib.sha256)


@dataclass(frozen=True)
class Deidentified:
    """What may be told of an image that was written under pseudonyms, or why it was not."""

    kept_back_because: str | None = None
    view: str = ""
    """A `hilum.eligibility.View`; empty when the header does not tell."""
    sex: str = ""
    age_years: int | None = None
    sha256: str = ""
    """Of the file written."""


def load(file: Path, *, was_used: bool = False) -> Pseudonyms:
    """Return the pseudonyms of the key in a file; one that was not used yet is made, for its owner alone.

    Raises SettingsError when others may read the file, no key is in it, or the one that was used is gone.
    """
    if was_used and not file.exists():
        raise SettingsError(
            f"{file}: the key of earlier exports is gone: put back the copy that you keep of it, readable by "
            "its owner only. If there is none, --new-key has another made, under which everybody, "
            "whoever was exported before too, gets another pseudonym"
        )
    if not file.exists():
        _make(file)
    if file.stat().st_mode & 0o077:
        raise SettingsError(f"{file}: others may read this key, which undoes pseudonyms: chmod 600 it")
    try:
        key = bytes.fromhex(file.read_text("ascii"))
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise SettingsError(
            f"{file}: there is no key in it: put back the one that was there, or remove the file and have "
            "another made (--new-key), under which everybody gets another pseudonym"
        )
    return Pseudonyms(key)


def _make(file: Path) -> None:
    """Make the key, whole or not at all; where another process was faster, its key stands."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    aside.touch(mode=0o600)
    aside.write_text(os.urandom(_KEY_BYTES).hex() + "\n", "ascii")
    fsync(aside)
    try:
        file.hardlink_to(aside)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
    fsync(file.parent)
