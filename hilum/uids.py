"""UIDs of what we make."""

import uuid

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "hilum")


def derived_uid(*parts: str) -> str:
    """Return the UID that always follows from these parts: 2.25 and a UUID as a decimal (PS3.5 B.2).

    The UUID is a version 5 one (RFC 9562), so that a report rendered twice is the same object.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}"
