"""Names that stand for others: steady under one key, strange under another."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import UID

from hilum.errors import SettingsError
from hilum.pseudonyms import Pseudonyms, load

ONE, OTHER = Pseudonyms(bytes(32)), Pseudonyms(bytes(31) + b"\1")


def test_the_same_key_gives_the_same_names_and_another_key_gives_others() -> None:
    again = Pseudonyms(bytes(32))
    for kind in ("uid", "patient", "source", "shift"):
        assert getattr(ONE, kind)("1.2.3") == getattr(again, kind)("1.2.3") != getattr(OTHER, kind)("1.2.3")


@settings(deadline=None)
@given(st.text(max_size=64))
def test_a_patient_is_moved_back_by_a_day_to_a_year(patient_id: str) -> None:
    assert timedelta(days=-365) <= ONE.shift(patient_id) <= timedelta(days=-1)


@settings(deadline=None)
@given(st.text(min_size=4, max_size=64))
def test_a_name_shows_nothing_of_what_it_stands_for(name: str) -> None:
    assert name not in ONE.patient(name) and name not in ONE.source(name)
    assert UID(ONE.uid(name)).is_valid and ONE.uid(name).startswith("2.25.")


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "site" / "pseudonyms.key"
    made = load(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert load(file).key == made.key and len(set(made.key)) > 8
    assert list(file.parent.iterdir()) == [file]


def test_a_key_that_was_used_is_not_replaced_by_another(tmp_path: Path) -> None:
    file = tmp_path / "pseudonyms.key"
    with pytest.raises(SettingsError, match="--new-key"):
        load(file, was_used=True)
    assert not file.exists()
    assert load(file, was_used=False).key == load(file, was_used=True).key


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pseudonyms.key"
    load(file)
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        load(file)


@pytest.mark.parametrize("content", ["", "no key\n", "00" * 31])
def test_a_file_without_a_key_is_not_taken_for_one(tmp_path: Path, content: str) -> None:
    file = tmp_path / "pseudonyms.key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="no key in it"):
        load(file)
