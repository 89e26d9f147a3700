"""Many names in small portions: a statement takes only so many, and on SQLite each holds up all writers."""

from collections.abc import Collection, Iterator

AT_ONCE = 500


def chunks(names: Collection[str]) -> Iterator[list[str]]:
    """Yield the names, sorted, AT_ONCE of them at a time."""
    ordered = sorted(names)
    for start in range(0, len(ordered), AT_ONCE):
        yield ordered[start : start + AT_ONCE]
