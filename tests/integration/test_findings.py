"""What networks said: once for each image, its pixels, the network and the preprocessing."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import findings, studies
from db.findings import Read
from db.session import transaction
from db.studies import Preparation
from db.tables import Finding
from tests.integration.examples import STUDY, an_object

UID, PIXELS, PREPROCESSING = "1.2.3.4.1.99", "h" * 64, "square-224-v1"
OLD, NEW = "a" * 64, "b" * 64
"""Digests of two networks."""


def a_read(label: str = "Normal", pixel_hash: str = PIXELS) -> Read:
    return Read(UID, pixel_hash, label, {label: 1.0}, ood=0.1, heat=[[0.0] * 7] * 7)


def save(session: Session, read: Read, digest: str = OLD, preprocessing: str = PREPROCESSING) -> None:
    findings.save(session, [read], network_digest=digest, preprocessing=preprocessing)


def unread(session: Session, digest: str = OLD, preprocessing: str = PREPROCESSING) -> list[str]:
    found = findings.unread(session, STUDY, network_digest=digest, preprocessing=preprocessing)
    return [image.uid for image in found]


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """A transaction in a database with two networks, one prepared image, and one that is not assessed."""
    refused = an_object()
    with transaction() as session:
        for digest in (OLD, NEW):
            findings.note_network(session, digest=digest, version=digest[0], manifest={})
        studies.record(session, an_object(uid=UID), settle_s=0)
        studies.record(session, refused, settle_s=0)
        ready = Preparation(UID, prepared_path="prepared/1", pixel_hash=PIXELS)
        lateral = Preparation(refused.uid, not_assessed_because="the view is lateral")
        studies.save_preparations(session, [ready, lateral])
    with transaction() as session:
        yield session


def test_only_prepared_images_are_to_be_read(session: Session) -> None:
    assert unread(session) == [UID]


def test_an_image_is_read_once_by_each_network_and_preprocessing(session: Session) -> None:
    save(session, a_read())
    assert unread(session) == []
    assert unread(session, digest=NEW) == [UID]
    assert unread(session, preprocessing="square-448-v2") == [UID]


def test_the_first_finding_stands_when_the_same_is_found_again(session: Session) -> None:
    save(session, a_read("Normal"))
    save(session, a_read("Pneumonia"))
    assert session.scalar(select(func.count()).select_from(Finding)) == 1
    assert findings.of_study(session, STUDY)[UID].label == "Normal"


def test_the_newest_networks_finding_is_the_studys(session: Session) -> None:
    save(session, a_read("Normal"))
    save(session, a_read("Pneumonia"), digest=NEW)
    found = findings.of_study(session, STUDY)[UID]
    assert (found.label, findings.network(session, found.network_digest).version) == ("Pneumonia", "b")


def test_findings_of_two_networks_are_never_mixed(session: Session) -> None:
    late = an_object()
    studies.record(session, late, settle_s=0)
    ready = Preparation(late.uid, prepared_path="prepared/2", pixel_hash=PIXELS)
    studies.save_preparations(session, [ready])
    save(session, a_read("Normal"))
    save(session, a_read("Pneumonia"), digest=NEW)
    assert set(findings.of_study(session, STUDY)) == {UID}
    save(session, replace(a_read("Other"), uid=late.uid))
    found = findings.of_study(session, STUDY)
    assert {uid: found[uid].label for uid in found} == {UID: "Normal", late.uid: "Other"}
    assert {finding.network_digest for finding in found.values()} == {OLD}


def test_a_finding_of_other_pixels_is_not_the_images(session: Session) -> None:
    save(session, a_read(pixel_hash="f" * 64))
    assert unread(session) == [UID]
    assert findings.of_study(session, STUDY) == {}


def test_a_network_is_written_down_once(session: Session) -> None:
    findings.note_network(session, digest=OLD, version="another name", manifest={"a": 1})
    assert findings.network(session, OLD).version == "a"
