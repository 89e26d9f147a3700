"""What a person says in an object, and what is not taken for it."""

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as some
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from hilum.errors import Undecodable
from hilum.labels import VERDICTS
from hilum.phantom import phantom
from tests.peers.workstation import PERSON, Group, device, note, person, report
from tests.unit.test_structured_report import assessed, header, result
from worker.results import FINDING_CODES
from worker.spoken import DEEPEST, MOST_ITEMS, spoken
from worker.structured_report import structured_report

PNEUMONIA, COVID = FINDING_CODES["Pneumonia"], FINDING_CODES["COVID-19"]
A, B = (phantom(seed, "Normal", rows=60, columns=50, study_uid="1.2.3") for seed in (1, 2))
UID_A, UID_B = A.SOPInstanceUID, B.SOPInstanceUID


def test_a_note_that_rejects_images_says_so_of_each() -> None:
    said = spoken(note([A, B], title=codes.DCM.RejectedForQualityReasons, observer=person()))
    assert said.labels == {UID_A: "Rejected", UID_B: "Rejected"}
    assert (said.author, said.because) == (PERSON, None)


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ("Pneumonia", "Pneumonia"),
        ("hilum: COVID-19", "COVID-19"),
        ("HILUM:covid 19", "COVID-19"),
        ("no pneumonia", None),
        ("Pneumonia.", "Pneumonia"),
        ("Pneumonia?", None),
        ("Pneumonia, Normal", None),
        ("hilum: hilum: Normal", None),
        (None, None),
    ],
)
def test_a_note_s_description_is_a_class_and_nothing_else(description: str | None, label: str | None) -> None:
    said = spoken(note([A], description=description))
    assert said.labels == ({UID_A: label} if label else {})
    assert said.because == (None if label else "it names no class of ours")
    assert said.author == ""


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        (
            [Group(PNEUMONIA, beside=[A]), Group(COVID, inferred_from=[B])],
            {UID_A: "Pneumonia", UID_B: "COVID-19"},
        ),
        ([Group(PNEUMONIA, inferred_from=[A], beside=[B])], {UID_A: "Pneumonia"}),
        ([Group(PNEUMONIA)], {UID_A: "Pneumonia", UID_B: "Pneumonia"}),
        ([Group(codes.DCM.RejectedForQualityReasons, beside=[A])], {UID_A: "Rejected"}),
    ],
)
def test_a_report_s_findings_are_of_the_images_that_stand_nearest(
    groups: list[Group], labels: dict[str, str]
) -> None:
    said = spoken(report([A, B], groups, observer=person()))
    assert (said.labels, said.author, said.because) == (labels, PERSON, None)


def test_of_a_report_that_is_unclear_only_what_is_clear_is_taken() -> None:
    said = spoken(report([A, B], [Group(PNEUMONIA), Group(COVID, beside=[A])]))
    assert said.labels == {UID_A: "COVID-19"}
    assert said.because == "of which image it says so is not clear"
    said = spoken(report([A, B], [Group(PNEUMONIA, beside=[A]), Group(COVID, beside=[A, B])]))
    assert said.labels == {UID_B: "COVID-19"}
    assert said.because == f"it says different things of {UID_A}"


def test_other_findings_are_no_verdicts() -> None:
    effusion = Code("60046008", "SCT", "Pleural effusion")
    assert spoken(report([A], [Group(effusion, beside=[A])])).because == "it names no class of ours"
    ours_by_another = Code(PNEUMONIA.value, "99OTHER", "Pneumonia")
    assert spoken(report([A], [Group(ours_by_another, beside=[A])])).labels == {}


def test_who_verified_a_report_says_so_where_no_observer_is_named() -> None:
    groups = [Group(PNEUMONIA, beside=[A])]
    assert spoken(report([A], groups, verified_by="Chief^Carla")).author == "Chief^Carla"
    assert spoken(report([A], groups, verified_by="Chief^Carla", observer=person())).author == PERSON


def test_what_a_device_says_is_no_person_s_word_until_one_stands_by_it() -> None:
    """A copy of our own report must not teach us what we said."""
    ours = structured_report(result(assessed(header())))
    assert (spoken(ours).labels, spoken(ours).because) == ({}, "a device says so, and no person")
    verifier = Dataset()
    verifier.VerifyingObserverName = "Chief^Carla"
    ours.VerifyingObserverSequence = [verifier]
    said = spoken(ours)
    assert (said.author, said.labels) == ("Chief^Carla", {header().SOPInstanceUID: "Pneumonia"})
    assert said.because is None, "probabilities name every class, and are no findings"
    by_a_machine = report([A], [Group(PNEUMONIA, beside=[A])], observer=device())
    assert spoken(by_a_machine).labels == {}


@pytest.mark.parametrize(
    ("zone", "date", "time", "said_at"),
    [
        ("+0100", "20260102", "030405.678", "2026-01-02T02:04:05+00:00"),
        ("-0500", "20260102", "0304", "2026-01-02T08:04:00+00:00"),
        ("", "20260102", "030405", ""),
        ("+0100", "29990101", "000000", ""),
        ("+9999", "20260102", "030405", ""),
        ("+0100", "00010101", "000000", ""),
        ("+0100", "20260230", "030405", ""),
    ],
)
def test_the_time_counts_where_its_zone_is_told(zone: str, date: str, time: str, said_at: str) -> None:
    ds = note([A], description="Normal")
    ds.TimezoneOffsetFromUTC, ds.ContentDate, ds.ContentTime = zone, date, time
    assert spoken(ds).said_at == said_at
    assert not said_at or datetime.fromisoformat(said_at) < datetime.now(UTC)


def test_more_than_anybody_writes_is_refused() -> None:
    item = Dataset()
    item.ValueType = "CONTAINER"
    wide = Dataset()
    wide.ContentSequence = [item] * (MOST_ITEMS + 1)
    with pytest.raises(Undecodable):
        spoken(wide)
    deep = Dataset()
    for _ in range(DEEPEST + 2):
        around = Dataset()
        around.ValueType, around.ContentSequence = "CONTAINER", [deep]
        deep = around
    with pytest.raises(Undecodable):
        spoken(deep)


NOTE = note([A, B], description="Pneumonia", observer=person())
REPORT = report([A, B], [Group(PNEUMONIA, beside=[A]), Group(COVID, inferred_from=[B])], observer=person())
WORDS = some.sampled_from(
    ["", "CODE", "CONTAINER", "IMAGE", "1.2", "../x", "DCM", "\x1b[2J", "121071", "Normal"]
)


def _anywhere(ds: Dataset) -> list[Callable[[str], None]]:
    """A setter for each text value, however deep."""
    setters: list[Callable[[str], None]] = []
    for element in ds:
        if element.VR == "SQ":
            setters += [each for inner in element.value for each in _anywhere(inner)]
        elif isinstance(element.value, str):
            setters.append(lambda text, element=element: setattr(element, "_value", text))  # type: ignore[misc]
    return setters


@pytest.mark.parametrize("whole", [NOTE, REPORT], ids=["note", "report"])
@given(changes=some.lists(some.tuples(some.integers(0, 10_000), WORDS | some.text(max_size=20)), max_size=8))
@trying(max_examples=40, deadline=None)
def test_wild_values_say_what_can_be_said_or_nothing(whole: Dataset, changes: list[tuple[int, str]]) -> None:
    ds = deepcopy(whole)
    setters = _anywhere(ds)
    for where, text in changes:
        setters[where % len(setters)](text)
    said = spoken(ds)
    assert set(said.labels.values()) <= set(VERDICTS)
    assert len(said.author) <= 128 and said.author.isprintable()
