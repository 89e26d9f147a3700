"""Recording what arrives: twice, with other pixels, from many senders at once, and our own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    KeyObjectSelectionDocumentStorage,
)
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import jobs, reports, studies
from db.reports import Rendered
from db.session import transaction
from db.studies import Preparation, Received, Record, Recorded
from db.tables import Base, Instance, Job, ObjectKind, Role, Series, Study, StudyState, Variant
from hilum.queue import PREPARE
from tests.integration.examples import STUDY, an_object

pytestmark = pytest.mark.usefixtures("database_url")


def record(received: Received, settle_s: float = 0) -> Record:
    with transaction() as session:
        return studies.record(session, received, settle_s=settle_s)


def how_many(session: Session, table: type[Base]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def record_at_once(received: list[Received]) -> list[Record]:
    """Record each on a connection of its own, all at the same moment."""
    barrier = Barrier(len(received))

    def one(each: Received) -> Record:
        barrier.wait(10)
        return record(each)

    with ThreadPoolExecutor(len(received)) as pool:
        return list(pool.map(one, received))


def test_a_new_image_is_kept_with_its_study_and_the_work_that_it_needs() -> None:
    outcome = record(an_object(patient_id="P1", accession_number="A1", view="PA"))
    assert (outcome.kind, outcome.ring) == (Recorded.NEW, True)
    with transaction() as session:
        study = session.get_one(Study, STUDY)
        assert (study.state, study.patient_id, study.accession_number) == (StudyState.RECEIVED, "P1", "A1")
        assert [image.view for image in studies.images(session, STUDY)] == ["PA"]
        assert jobs.due(session, [PREPARE]) == 1


def test_work_is_due_only_when_the_study_has_settled() -> None:
    record(an_object(), settle_s=60)
    with transaction() as session:
        assert jobs.due(session, [PREPARE]) == 0
        assert jobs.too_early_by_s(session, PREPARE, STUDY) is not None


def test_the_second_image_of_a_study_needs_no_second_bell() -> None:
    assert [record(an_object()).ring, record(an_object()).ring] == [True, False]


def test_an_image_sent_twice_is_one_image_and_its_first_file_stands() -> None:
    first = an_object(path="instances/first.dcm")
    record(first)
    with transaction() as session:
        held = jobs.claim(session, PREPARE, STUDY, lease_s=60)
        assert held is not None
        jobs.finish(session, held)
    again = record(an_object(uid=first.uid, pixel_digest=first.pixel_digest, path="instances/again.dcm"))
    assert again == Record(Recorded.DUPLICATE, "instances/first.dcm", ring=False)
    with transaction() as session:
        assert how_many(session, Instance) == 1
        assert jobs.due(session, [PREPARE]) == 0, "nothing is read a second time"


def test_other_pixels_under_a_known_uid_are_kept_aside_and_flagged() -> None:
    first = an_object()
    record(first)
    other = an_object(uid=first.uid, path="variants/other.dcm")
    assert record(other) == Record(Recorded.VARIANT, "variants/other.dcm", ring=False)
    assert record(other).kind == Recorded.VARIANT
    with transaction() as session:
        assert session.get_one(Instance, first.uid).pixel_digest == first.pixel_digest
        assert studies.flagged(session) == 1, "the same variant twice is one"
        assert session.scalars(select(Variant.path)).all() == ["variants/other.dcm"]


def test_a_variant_sent_again_with_another_header_adds_no_file() -> None:
    first = an_object()
    record(first)
    other = an_object(uid=first.uid, path="instances/other.dcm")
    record(other)
    again = replace(other, path="instances/again.dcm")
    assert record(again) == Record(Recorded.VARIANT, "instances/other.dcm", ring=False)


def test_a_known_uid_in_another_study_is_flagged_and_opens_no_study() -> None:
    first = an_object()
    record(first)
    moved = replace(first, study_uid="1.2.9", series_uid="1.2.9.1", path="instances/moved.dcm")
    assert record(moved) == Record(Recorded.VARIANT, "instances/moved.dcm", ring=False)
    with transaction() as session:
        assert session.get_one(Instance, first.uid).study_uid == STUDY
        assert session.scalars(select(Variant.study_uid)).all() == ["1.2.9"]
        assert [how_many(session, table) for table in (Study, Series, Instance, Job)] == [1, 1, 1, 1]


def test_of_one_uid_in_two_studies_at_the_same_moment_one_study_stays() -> None:
    image = an_object()
    outcomes = record_at_once([image, replace(image, study_uid="1.2.9", series_uid="1.2.9.1")] * 4)
    assert sum(outcome.kind is Recorded.NEW for outcome in outcomes) == 1
    with transaction() as session:
        assert [how_many(session, table) for table in (Study, Series, Instance, Job)] == [1, 1, 1, 1]


def test_the_same_image_compressed_is_one_image() -> None:
    first = an_object()
    record(first)
    compressed = an_object(uid=first.uid, transfer_syntax_uid=str(JPEG2000Lossless))
    assert record(compressed).kind == Recorded.DUPLICATE
    with transaction() as session:
        assert studies.flagged(session) == 0


def test_other_pixels_are_told_apart_in_every_syntax_that_stores_them_alike() -> None:
    first = an_object(transfer_syntax_uid=str(ExplicitVRLittleEndian))
    record(first)
    other = an_object(uid=first.uid, transfer_syntax_uid=str(ImplicitVRLittleEndian))
    assert record(other).kind == Recorded.VARIANT


def test_an_object_without_pixels_changes_nothing_of_a_known_study() -> None:
    record(an_object())
    with transaction() as session:
        held = jobs.claim(session, PREPARE, STUDY, lease_s=60)
        assert held is not None
        jobs.finish(session, held)
        studies.reach(session, STUDY, StudyState.DELIVERED)
    note = an_object(sop_class_uid=str(KeyObjectSelectionDocumentStorage), has_pixels=False)
    assert record(note) == Record(Recorded.OTHER, note.path, ring=False, may_speak=True)
    with transaction() as session:
        assert session.get_one(Instance, note.uid).role == Role.OTHER
        assert session.get_one(Study, STUDY).state == StudyState.DELIVERED
        assert note.uid not in [image.uid for image in studies.images(session, STUDY)]
        assert jobs.due(session, [PREPARE]) == 0


@pytest.mark.parametrize("changes", [{"has_pixels": False}, {"ours": True}])
def test_a_study_without_an_image_of_others_is_not_read(changes: dict[str, bool]) -> None:
    record(an_object(**changes))
    with transaction() as session:
        assert session.get_one(Study, STUDY).state == StudyState.NOT_READ
        assert how_many(session, Job) == 0
    assert record(an_object()).ring
    with transaction() as session:
        assert session.get_one(Study, STUDY).state == StudyState.RECEIVED


def test_a_late_image_wants_the_study_prepared_again() -> None:
    record(an_object())
    with transaction() as session:
        held = jobs.claim(session, PREPARE, STUDY, lease_s=60)
        assert held is not None
        jobs.finish(session, held)
        studies.reach(session, STUDY, StudyState.DELIVERED)
    assert record(an_object()).ring
    with transaction() as session:
        assert session.get_one(Study, STUDY).state == StudyState.RECEIVED
        assert jobs.due(session, [PREPARE]) == 1


def test_our_own_report_coming_back_is_known_by_its_uid_and_needs_no_work() -> None:
    record(an_object())
    with transaction() as session:
        report_object = Rendered("2.25.1", ObjectKind.SR, "2.25.2", "1.2.840.10008.5.1.4.1.1.88.34", "r.dcm")
        reports.add(session, STUDY, revision=1, content_digest="d", objects=[report_object])
        held = jobs.claim(session, PREPARE, STUDY, lease_s=60)
        assert held is not None
        jobs.finish(session, held)
    back = record(an_object(uid="2.25.1", series_uid="2.25.2"))
    assert (back.kind, back.ring) == (Recorded.OURS, False)
    with transaction() as session:
        assert session.get_one(Instance, "2.25.1").role == Role.OURS
        assert len(studies.images(session, STUDY)) == 1
        assert jobs.due(session, [PREPARE]) == 0


def test_an_object_whose_header_says_it_is_ours_is_not_an_image() -> None:
    assert record(an_object(ours=True)).kind == Recorded.OURS
    with transaction() as session:
        assert studies.images(session, STUDY) == []
        assert how_many(session, Job) == 0


def test_an_urgent_image_makes_its_study_urgent_and_a_later_one_leaves_it_so() -> None:
    outcomes = [record(an_object(urgent=urgent)) for urgent in (False, True, False)]
    assert [outcome.urgent for outcome in outcomes] == [False, True, True]
    with transaction() as session:
        assert session.get_one(Study, STUDY).urgent
        held = jobs.claim(session, PREPARE, STUDY, lease_s=60)
        assert held is not None
        assert held.urgent


def test_senders_that_open_a_study_at_the_same_moment_are_all_served() -> None:
    outcomes = record_at_once([an_object() for _ in range(8)])
    assert {outcome.kind for outcome in outcomes} == {Recorded.NEW}
    assert sum(outcome.ring for outcome in outcomes) == 1
    with transaction() as session:
        assert [how_many(session, table) for table in (Study, Series, Instance, Job)] == [1, 1, 8, 1]


def test_urgent_and_other_images_of_new_series_at_the_same_moment_do_not_block_each_other() -> None:
    for number in range(10):
        series_uid = f"{STUDY}.2.{number}"
        record_at_once([an_object(series_uid=series_uid, urgent=turn % 2 == 0) for turn in range(8)])
    with transaction() as session:
        assert how_many(session, Instance) == 80


def test_of_the_same_image_sent_many_times_at_once_one_is_new() -> None:
    image = an_object()
    kinds = [outcome.kind for outcome in record_at_once([image] * 8)]
    assert sorted(kinds) == sorted([Recorded.NEW] + [Recorded.DUPLICATE] * 7)


def test_what_preparing_gave_is_kept_with_each_image() -> None:
    read, refused = an_object(), an_object()
    record(read)
    record(refused)
    with transaction() as session:
        good = Preparation(read.uid, view="PA", prepared_path="prepared/1", pixel_hash="h")
        bad = Preparation(refused.uid, not_assessed_because="it is a lateral view")
        studies.save_preparations(session, [good, bad])
    with transaction() as session:
        kept = {image.uid: image for image in studies.images(session, STUDY)}
    assert (kept[read.uid].view, kept[read.uid].prepared_path) == ("PA", "prepared/1")
    assert kept[refused.uid].not_assessed_because == "it is a lateral view"
    assert all(image.prepared for image in kept.values())


def test_people_find_a_study_by_uid_accession_number_or_patient_exactly() -> None:
    record(an_object(patient_id="P1", accession_number="A1"))
    record(an_object(study_uid="1.2.9", series_uid="1.2.9.1", patient_id="P11"))
    with transaction() as session:
        for text in (STUDY, "P1", "A1"):
            assert [study.study_uid for study in studies.find(session, text)] == [STUDY]
        assert studies.find(session, "P") == []
        assert studies.counts(session) == {StudyState.RECEIVED: 2}
        assert [study.study_uid for study in studies.latest(session, most=1)] == ["1.2.9"]
