from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session

from db import studies
from db.session import transaction
from db.tables import Instance, Role, Study, Verdict
from db.verdicts import labelled_images
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


def say(session: Session, uid: str, label: str, supersedes: int | None = None) -> int:
    verdict = Verdict(uid=uid, label=label, author="Dr. R", source="console", supersedes=supersedes)
    session.add(verdict)
    session.flush()
    return verdict.id


def labels() -> dict[str, str]:
    with transaction() as session:
        return {each.instance.uid: each.label for each in labelled_images(session)}


def test_a_verdict_labels_all_assessed_images_of_its_study() -> None:
    with transaction() as session:
        spoken_of, beside = add_image(session, "1.2"), add_image(session, "1.2")
        add_image(session, "1.2", not_assessed_because="the view is lateral", prepared_path="")
        add_image(session, "1.2", not_assessed_because="it looks like no chest")
        add_image(session, "1.2", role=Role.OURS)
        add_image(session, "1.3")
        say(session, spoken_of, "Pneumonia")
    assert labels() == {spoken_of: "Pneumonia", beside: "Pneumonia"}


def test_a_superseded_verdict_does_not_count_and_an_image_s_own_goes_first() -> None:
    with transaction() as session:
        first, second, third = (add_image(session, "1.2") for _ in range(3))
        wrong = say(session, first, "Pneumonia")
        say(session, first, "Normal", supersedes=wrong)
        say(session, second, "Other")
    assert labels() == {first: "Normal", second: "Other", third: "Other"}


def test_a_study_whose_only_verdict_was_taken_back_by_another_study_s_stays_out() -> None:
    """Superseding is by verdict: nothing stands in the first study any more."""
    with transaction() as session:
        mistaken, meant = add_image(session, "1.2"), add_image(session, "1.3")
        say(session, meant, "Other", supersedes=say(session, mistaken, "Other"))
    assert labels() == {meant: "Other"}


def test_phantoms_stay_out() -> None:
    with transaction() as session:
        say(session, add_image(session, "1.2", phantom=True), "Normal")
    assert labels() == {}


def test_labelled_studies_are_read_as_images_to_train_on(tmp_path: Path) -> None:
    ds = phantom.phantom(7, "Normal", rows=320, columns=262, study_uid="1.2")
    with transaction() as session:
        uid = add_image(session, "1.2", path="instances/7.dcm", view="PA")
        session.get_one(Study, "1.2").patient_id = "P1"
        say(session, uid, "COVID-19")
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
        say(session, uid, "Effusion")
    with pytest.raises(UnusableData, match=f"{uid}: 'Effusion' is no class"):
        reader.read(None)
