from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from db import studies, verdicts
from db.clock import now
from db.session import engine, transaction
from db.tables import Instance, Study, Verdict
from db.verdicts import Said
from hilum import phantom
from hilum.radiograph import network_input, to_display
from hilum.settings import settings
from tests.integration.examples import an_object
from tests.unit.images import save
from training import reader
from training.reader import UnusableData

pytestmark = pytest.mark.usefixtures("database_url")


def add_image(session: Session, study_uid: str, *, phantom: bool = False, **changes: object) -> str:
    """An assessed image of a study; its SOP Instance UID."""
    received = an_object(study_uid=study_uid, series_uid=f"{study_uid}.1")
    studies.record(session, received, settle_s=0)
    instance = session.get_one(Instance, received.uid)
    for name, value in ({"prepared": True, "prepared_path": "prepared/1"} | changes).items():
        setattr(instance, name, value)
    session.get_one(Study, study_uid).phantom = phantom
    return received.uid


def labels() -> dict[str, str]:
    with transaction() as session:
        return {each.instance.uid: each.label for each in verdicts.labelled_images(session)}


def test_images_that_can_be_trained_on_have_a_label_and_others_a_reason() -> None:
    with transaction() as session:
        uids = {
            None: add_image(session, "1.2"),
            "not assessed": add_image(session, "1.2", not_assessed_because="it looks like no chest"),
            "file removed": add_image(session, "1.2", removed_at=datetime(2026, 1, 1, tzinfo=UTC)),
        }
        for uid in uids.values():
            verdicts.add(session, uid, "Pneumonia", "Dr. R", "console")
        uids["rejected"] = add_image(session, "1.3")
        verdicts.add(session, uids["rejected"], "Rejected", "Dr. R", "console")
        uids["readers disagree"] = add_image(session, "1.3")
        verdicts.add(session, uids["readers disagree"], "Normal", "Dr. R", "console")
        verdicts.add(session, uids["readers disagree"], "Other", "Dr. S", "console")
        add_image(session, "1.3")  # of which nobody spoke
    with transaction() as session:
        told = {each.left_out_because: each for each in verdicts.labelled(session)}
    assert {because: each.instance.uid for because, each in told.items()} == uids
    assert (told[None].label, told[None].authors, told["readers disagree"].label) == (
        "Pneumonia",
        ("Dr. R",),
        "",
    )
    assert told["readers disagree"].authors == ("Dr. R", "Dr. S")
    assert labels() == {uids[None]: "Pneumonia"}


def test_a_person_s_later_verdict_supersedes_their_own_and_nobody_else_s() -> None:
    with transaction() as session:
        uid = add_image(session, "1.2")
        first = verdicts.add(session, uid, "Pneumonia", "Dr. R", "console")
        verdicts.add(session, uid, "Normal", "Dr. S", "console")
        second = verdicts.add(session, uid, "Other", "Dr. R", "console")
        assert second.supersedes == first.id
        stands = verdicts.standing(session, "1.2")
        assert [(each.author, each.label) for each in stands] == [("Dr. S", "Normal"), ("Dr. R", "Other")]
        assert verdicts.disagree(stands)
        verdicts.add(session, uid, "Normal", "Dr. R", "console")
        assert not verdicts.disagree(verdicts.standing(session, "1.2"))
        assert [each.id for each in verdicts.history(session, "1.2")] == [1, 2, 3, 4]
    assert labels() == {uid: "Normal"}


def test_what_brought_a_verdict_brings_it_once_whatever_was_said_since() -> None:
    with transaction() as session:
        uid = add_image(session, "1.2")
        first = verdicts.add(session, uid, "Pneumonia", "Dr. R", "dicom", origin="1.9")
        assert verdicts.add(session, uid, "Pneumonia", "Dr. R", "dicom", origin="1.9").id == first.id
        verdicts.add(session, uid, "Normal", "Dr. R", "console")
    with transaction() as session:
        assert verdicts.add(session, uid, "Pneumonia", "Dr. R", "dicom", origin="1.9").id == first.id
    assert labels() == {uid: "Normal"}


def test_what_was_said_earlier_and_comes_later_changes_nothing() -> None:
    with transaction() as session:
        uid = add_image(session, "1.2")
        now = verdicts.add(session, uid, "Normal", "Dr. R", "console")
        long_ago = datetime(2026, 1, 1, tzinfo=UTC)
        assert verdicts.add(session, uid, "Other", "Dr. R", "csv", said_at=long_ago).id == now.id
        verdicts.add(session, uid, "Normal", "Dr. S", "csv", said_at=long_ago)
        later = long_ago + timedelta(days=1)
        assert verdicts.add(session, uid, "Other", "Dr. S", "csv", said_at=later).label == "Other"
        of_one_batch = [
            Said(uid, "Normal", "Dr. T", "csv"),
            Said(uid, "Other", "Dr. T", "csv", said_at=later),
        ]
        assert [each.label for each in verdicts.add_all(session, of_one_batch)] == ["Normal", "Normal"]


def test_what_nobody_can_say_of_an_image_is_refused() -> None:
    with transaction() as session, pytest.raises(ValueError, match="'Effusion' is none of Normal, "):
        verdicts.add(session, add_image(session, "1.2"), "Effusion", "Dr. R", "console")


def test_two_verdicts_of_one_person_at_once_follow_each_other() -> None:
    with transaction() as session:
        uid = add_image(session, "1.2")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(partial(_add_alone, uid), range(24)))
    with transaction() as session:
        assert len(verdicts.standing(session, "1.2")) == 1
        assert len(verdicts.history(session, "1.2")) == 24


def _add_alone(uid: str, number: int) -> None:
    with transaction() as session:
        verdicts.add(session, uid, ("Normal", "Other")[number % 2], "Dr. R", "console")


def test_new_verdicts_are_those_that_stand_and_came_since() -> None:
    with transaction() as session:
        old, fresh = add_image(session, "1.2"), add_image(session, "1.2")
        verdicts.add(session, old, "Normal", "Dr. R", "console")
        verdicts.add(session, add_image(session, "1.3", phantom=True), "Normal", "Dr. R", "console")
    with transaction() as session:
        since = session.scalars(select(now().label("now"))).one()
        for author in ("Dr. R", "Dr. S"):
            verdicts.add(session, fresh, "Other", author, "csv", said_at=datetime(2026, 1, 1, tzinfo=UTC))
        verdicts.add(session, fresh, "Normal", "Dr. R", "console")
    with transaction() as session:
        new = verdicts.new_since(session, since)
        assert [(each.uid, each.label) for each in new] == [(fresh, "Other"), (fresh, "Normal")]
        assert verdicts.count_new_since(session, since) == 1
        assert verdicts.count_new_since(session, None) == 2


def test_a_thousand_verdicts_take_a_few_queries() -> None:
    with transaction() as session:
        uids = [add_image(session, "1.2") for _ in range(200)]
    statements: list[str] = []
    event.listen(
        engine(settings().database), "before_cursor_execute", lambda *said: statements.append(said[2])
    )
    with transaction() as session:
        said = [Said(uid, "Normal", f"Dr. {who}", "csv", origin=f"{who}") for uid in uids for who in "RSTUV"]
        assert len(verdicts.add_all(session, said)) == 1000
    assert len(labels()) == 200
    assert len([each for each in statements if each.startswith("SELECT")]) < 50


def test_phantoms_stay_out() -> None:
    with transaction() as session:
        verdicts.add(session, add_image(session, "1.2", phantom=True), "Normal", "Dr. R", "console")
        assert list(verdicts.labelled(session)) == []


def test_labelled_studies_are_read_as_images_to_train_on(tmp_path: Path) -> None:
    ds = phantom.phantom(7, "Normal", rows=320, columns=262, study_uid="1.2")
    with transaction() as session:
        uid = add_image(session, "1.2", path="instances/7.dcm", view="PA")
        session.get_one(Study, "1.2").patient_id = "P1"
        verdicts.add(session, uid, "COVID-19", "Dr. R", "console")
    (settings().store / "instances").mkdir(parents=True)
    save(ds, settings().store / "instances" / "7.dcm")
    collection = reader.collect(None)
    assert collection.names == [uid]
    images = collection.images
    np.testing.assert_array_equal(images.pixels[0], network_input(to_display(ds)))
    assert (images.labels.tolist(), images.patients.tolist()) == ([2], ["P1"])
    assert (images.sources.tolist(), images.views.tolist()) == (["MODALITY"], ["PA"])
    assert images.ages_years.tolist() == [int(ds.PatientAge[:3])]
    assert (settings().data_dir / "training-cache").is_dir()


def test_a_label_that_the_network_does_not_know_is_refused() -> None:
    with transaction() as session:
        uid = add_image(session, "1.2")
        session.add(Verdict(uid=uid, label="Effusion", author="Dr. R", source="console"))
    with pytest.raises(UnusableData, match=f"{uid}: 'Effusion' is no class"):
        reader.read(None)
