"""UIDs: of what we make, and what one looks like."""

import re
import uuid

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "hilum")
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
"""As PS3.5 9.1 has it, but for leading zeros, which some modalities write: their studies are real."""


def is_uid(text: str) -> bool:
    """Whether a text has the form of a UID."""
    return _UID.fullmatch(text) is not None


def derived_uid(*parts: str) -> str:
    """Return the UID that always follows from these parts: 2.25 and a UUID as a decimal (PS3.5 B.2).

    The UUID is a version 5 one (RFC 9562), so that a report rendered twice is the same object.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}"
