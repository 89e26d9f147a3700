"""Passwords: Argon2id (RFC 9106), which is slow and takes memory so that guessing does, too."""

from threading import Semaphore

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

LEAST_CHARACTERS = 12
MOST_CHARACTERS = 1000

_hasher = PasswordHasher()
"""RFC 9106's second recommendation: 64 MiB, 3 passes, 4 lanes."""
_at_once = Semaphore(2)
"""However many log in at the same moment, this many times its memory is taken."""
_of_nobody = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43


def fault(password: str) -> str | None:
    """Why this cannot be a password, in words; None when it can."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        return f"A password has {LEAST_CHARACTERS} characters or more."
    if len(set(password)) < LEAST_CHARACTERS / 2:
        return "The password repeats the same few characters."
    return None


def hashed(password: str) -> str:
    """What is kept of a password."""
    with _at_once:
        return _hasher.hash(password)


def matches(password: str, kept: str) -> bool:
    """Whether it is the password of which this was kept; of nobody's (empty) as slowly as of somebody's."""
    with _at_once:
        try:
            return _hasher.verify(kept or _of_nobody, password[:MOST_CHARACTERS]) and bool(kept)
        except (Argon2Error, InvalidHashError):
            return False
