"""UIDs that we make."""

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from hilum.uids import derived_uid

PARTS = st.lists(st.text(), min_size=1)


@given(PARTS)
def test_a_derived_uid_is_a_valid_one_and_always_the_same(parts: list[str]) -> None:
    assert derived_uid(*parts) == derived_uid(*parts)
    assert UID(derived_uid(*parts)).is_valid


def test_a_derived_uid_does_not_change_with_our_version() -> None:
    """A report that was sent must be the same object when it is rendered again years later."""
    assert derived_uid("1.2.3", "1", "sr") == "2.25.160637428730612436937974642870408359191"


def test_other_parts_give_another_uid() -> None:
    uids = [derived_uid(*parts) for parts in (["1.2", "3"], ["1.2", "4"], ["1.2"], ["1.2", "3", "sr"])]
    assert len(set(uids)) == len(uids)
