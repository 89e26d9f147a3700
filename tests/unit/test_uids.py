"""UIDs that we make and UIDs that we are given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from hilum.uids import derived_uid, is_uid

PARTS = st.lists(st.text(), min_size=1)


@given(PARTS)
def test_a_derived_uid_is_a_valid_one_and_always_the_same(parts: list[str]) -> None:
    assert derived_uid(*parts) == derived_uid(*parts)
    assert UID(derived_uid(*parts)).is_valid
    assert is_uid(derived_uid(*parts))


def test_a_derived_uid_does_not_change_with_our_version() -> None:
    """A report that was sent must be the same object when it is rendered again years later."""
    assert derived_uid("1.2.3", "1", "sr") == "2.25.160637428730612436937974642870408359191"


def test_other_parts_give_another_uid() -> None:
    uids = [derived_uid(*parts) for parts in (["1.2", "3"], ["1.2", "4"], ["1.2"], ["1.2", "3", "sr"])]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("text", ["1", "0.1", "1.2.840.10008.1.2", "2.25." + "9" * 39, "1." * 31 + "11"])
def test_what_has_the_form_of_a_uid_is_one(text: str) -> None:
    assert is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", "../../evil", "1..2", ".1", "1.", "1.02", "1.2\n", "1.2/3", "1.2 ", "1.2.a", "1." * 32 + "1", "١.٢"],
)
def test_what_has_not_is_refused(text: str) -> None:
    assert not is_uid(text)
