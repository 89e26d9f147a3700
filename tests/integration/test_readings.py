"""What networks have read, how a shadow agrees, and what is read anew after a recall."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import findings, jobs, networks, readings, reports, studies
from db.findings import Read
from db.readings import NOT_ASSESSED, Share
from db.session import transaction
from db.studies import Preparation
from db.tables import Job, JobState, Study
from hilum.queue import PREPARE
from tests.integration.examples import an_object
from tests.integration.test_networks import A, B, an_artefact

P = "square-224-v1"


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A transaction in a database with a champion, A, a candidate, B, and three studies that A has read."""
    with transaction() as session:
        for digest in (A, B):
            networks.bring(session, an_artefact(digest), actor="anna")
        networks.promote(session, A, actor="anna", because="first")
        for study in ("1.1", "1.2", "1.3"):
            for image in (f"{study}.1", f"{study}.2"):
                studies.record(
                    session, an_object(uid=image, study_uid=study, series_uid=f"{study}.0"), settle_s=0
                )
                ready = Preparation(image, prepared_path=f"prepared/{image}", pixel_hash=image)
                studies.save_preparations(session, [ready])
                found(session, A, image)
        session.execute(update(Job).values(state=JobState.DONE))
    with transaction() as session:
        yield session


def found(
    session: Session,
    digest: str,
    image: str,
    label: str = "Normal",
    *,
    ood: float = 0.1,
    shadow: bool = False,
) -> None:
    read = Read(image, image, label, {label: 1.0}, ood=ood, heat=[])
    findings.save(session, [read], network_digest=digest, preprocessing=P, shadow=shadow)


def reads_now(session: Session, digest: str, study: str) -> None:
    """What classify does at the end of a pass."""
    findings.take_up(session, study, network_digest=digest, preprocessing=P)


def standing(session: Session, study: str) -> set[str]:
    return {each.network_digest[0] for each in findings.of_study(session, study).values()}


def anew(session: Session, digest: str = A) -> list[str]:
    return readings.want_anew(session, digest, after="", most=10, due_in_s=0, per_s=1.0)


def test_what_a_shadow_finds_is_none_of_the_studys_findings_until_it_is_champion(session: Session) -> None:
    found(session, B, "1.1.1", "Pneumonia", shadow=True)
    assert standing(session, "1.1") == {"a"}
    unread = findings.unread(session, "1.1", network_digest=B, preprocessing=P)
    assert [each.uid for each in unread] == ["1.1.2"]
    found(session, B, "1.1.2", "Normal")
    reads_now(session, B, "1.1")
    labels = {uid: each.label for uid, each in findings.of_study(session, "1.1").items()}
    assert labels == {"1.1.1": "Pneumonia", "1.1.2": "Normal"}
    assert standing(session, "1.1") == {"b"}


def test_after_a_rollback_what_the_former_champion_found_stands_again_unread(session: Session) -> None:
    for image in ("1.1.1", "1.1.2"):
        found(session, B, image, "Other")
    before = findings.of_study(session, "1.1")["1.1.1"]
    assert before.network_digest == B
    reads_now(session, A, "1.1")
    after = findings.of_study(session, "1.1")
    assert {each.label for each in after.values()} == {"Normal"}
    assert len(after) == 2
    reads_now(session, A, "1.1")
    assert {each.id for each in findings.of_study(session, "1.1").values()} == {
        each.id for each in after.values()
    }


def test_a_shadow_is_compared_with_what_was_reported_of_the_same_images(session: Session) -> None:
    for image, label in (
        ("1.1.1", "Normal"),
        ("1.1.2", "Pneumonia"),
        ("1.2.1", "Normal"),
        ("1.3.1", "Normal"),
    ):
        found(session, B, image, label, shadow=True)
    found(session, B, "1.2.2", "Normal", ood=1.5, shadow=True)
    session.get_one(Study, "1.3").phantom = True
    told = readings.agreement(session, B)
    assert told.all == Share(images=4, same=2)
    assert told.by_label == {"Normal": Share(4, 2)}
    assert told.by_sender == {"MODALITY": Share(4, 2)}
    assert told.pairs[("Normal", NOT_ASSESSED)] == told.pairs[("Normal", "Pneumonia")] == 1
    assert readings.agreement(session, A).all == Share()
    assert readings.counts(session) == {A: 2}, "neither a shadow's nor of phantoms"


def test_what_a_recalled_network_has_read_is_listed_page_by_page(session: Session) -> None:
    first = readings.of_network(session, A, most=2)
    assert [each.study.study_uid for each in first] == ["1.1", "1.2"]
    assert first[0].labels == ("Normal", "Normal")
    assert all(each.stands for each in first)
    found(session, B, "1.3.1")
    [last] = readings.of_network(session, A, after="1.2")
    assert (last.study.study_uid, last.stands) == ("1.3", False)


def test_only_what_no_other_network_has_read_since_is_read_anew(session: Session) -> None:
    found(session, B, "1.1.1")
    found(session, B, "1.3.1", shadow=True)
    assert anew(session) == ["1.2", "1.3"]
    due = session.scalars(select(Job).where(Job.kind == PREPARE, Job.state == JobState.WAITING)).all()
    assert sorted(each.subject for each in due) == ["1.2", "1.3"]
    first, second = sorted(due, key=lambda each: each.subject)
    assert 0.5 < (second.due_at - first.due_at).total_seconds() < 1.5, "one after the other"
    assert anew(session) == [], "they wait already"


def test_what_is_on_its_way_to_be_read_is_not_put_off(session: Session) -> None:
    jobs.want(session, PREPARE, "1.1", study_uid="1.1")
    assert anew(session) == ["1.2", "1.3"]


def test_phantoms_and_studies_without_files_are_not_read_anew(session: Session) -> None:
    session.get_one(Study, "1.1").phantom = True
    session.execute(
        update(Study).where(Study.study_uid == "1.2").values(files_removed_at=Study.last_received_at)
    )
    assert anew(session) == ["1.3"]
    assert readings.progress(session, A).lost == 1


def test_the_progress_of_a_recall_counts_what_was_read_what_changed_and_what_was_sent(
    session: Session,
) -> None:
    for study in ("1.1", "1.2"):
        reports.add(session, study, revision=1, content_digest="1", objects=[])
    networks.promote(session, B, actor="anna", because="better")
    networks.recall(session, A, actor="anna", because="wrong")
    told = readings.progress(session, A)
    assert (told.studies, told.read_anew, told.changed, told.superseding) == (3, 0, 0, 0)
    found(session, B, "1.1.1")
    found(session, B, "1.1.2", "Pneumonia")
    found(session, B, "1.2.1")
    found(session, B, "1.2.2")
    report = reports.add(session, "1.1", revision=2, content_digest="2", objects=[])
    delivery = reports.send_to(session, report, "PACS")
    told = readings.progress(session, A)
    assert (told.studies, told.read_anew, told.changed, told.superseding, told.delivered) == (3, 2, 1, 1, 0)
    reports.note_final(session, delivery.id)
    assert readings.progress(session, A).delivered == 1
