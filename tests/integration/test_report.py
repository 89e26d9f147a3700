"""Making a report: when there is a new one, of what, for whom; and what is sent is what was committed."""

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from sqlalchemy import update

from db import findings, jobs, reports, retention, studies
from db.findings import Read
from db.reports import Rendered
from db.retention import Rule
from db.session import transaction
from db.studies import Preparation
from db.tables import Job, JobState, ObjectKind, Report, Study, StudyState
from hilum.phantom import phantom
from hilum.queue import REPORT
from hilum.settings import settings
from hilum.store import DISPLAY_FILE, INSTANCES, PREPARED, Store
from tests.conftest import SettingsChange
from tests.peers.studies import RECEIVED, claim, receive
from worker import report
from worker.retention import remove_some

_ANY_AGE = Rule(days=-1, keep_labelled=True)

# the SQL is tried on every database elsewhere; here it is the files that matter
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


def test_a_worker_that_has_lost_its_lease_changes_no_report_of_another(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _refuse(_receive(tmp_path, seed=1))
    left_behind = report._facts(RECEIVED.study_uid)
    _make()
    [committed] = _files()
    content = committed.read_bytes()
    monkeypatch.setattr(report, "datetime", _Later)
    report._render(left_behind)
    assert committed.read_bytes() == content


class _Later(datetime):
    """A clock that has gone on since."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(2040, 1, 1)


def test_a_late_image_that_is_not_assessed_makes_no_new_revision(database_url: str, tmp_path: Path) -> None:
    _read(_receive(tmp_path, seed=1))
    assert len(_make()) == 1
    _refuse(_receive(tmp_path, seed=2))
    assert len(_make()) == 1
    assert _state() == StudyState.REPORTED
    _read(_receive(tmp_path, seed=3))
    assert len(_make()) == 2


def test_a_report_that_nothing_was_assessed_is_followed_by_one_of_what_was(
    database_url: str, tmp_path: Path
) -> None:
    lateral = _receive(tmp_path, seed=1)
    _refuse(lateral)
    assert len(_make()) == 1
    _refuse(_receive(tmp_path, seed=2))
    assert len(_make()) == 1
    frontal = _receive(tmp_path, seed=3)
    _read(frontal)
    assert len(_make()) == 2
    assert {lateral, frontal} < _referred_to()
    assert "Not assessed, because the view is lateral" in _newest_sr().to_json()


def test_what_the_network_takes_for_no_frontal_chest_is_reported_as_not_assessed(
    database_url: str, tmp_path: Path
) -> None:
    hand = _receive(tmp_path, seed=1)
    _read(hand, ood=1.01)
    _make()
    assert _kinds_of_the_newest() == [ObjectKind.SR]
    said = _newest_sr().to_json()
    assert "Not assessed, because it does not look like a frontal chest radiograph to the network" in said
    assert f"(Hilum chest radiograph classifier first, sha256 {'d' * 64}; score 1.0100)" in said
    assert codes.DCM.Probability.value not in said
    assert hand in _referred_to()
    assert _state() == StudyState.REPORTED


def test_what_a_network_without_a_map_read_is_reported_without_a_heat_map(
    database_url: str, tmp_path: Path
) -> None:
    _read(_receive(tmp_path, seed=1), has_map=False)
    _make()
    assert _kinds_of_the_newest() == [ObjectKind.SR]
    said = _newest_sr().to_json()
    assert codes.DCM.Probability.value in said
    assert codes.DCM.Saliency.value not in said
    assert _state() == StudyState.REPORTED


def test_a_late_image_that_the_network_refuses_makes_no_new_revision(
    database_url: str, tmp_path: Path
) -> None:
    _refuse(_receive(tmp_path, seed=1))
    assert len(_make()) == 1
    _read(_receive(tmp_path, seed=2), ood=1.01)
    assert len(_make()) == 1
    chest = _receive(tmp_path, seed=3)
    _read(chest, ood=0.99)
    assert len(_make()) == 2
    assert _kinds_of_the_newest() == [ObjectKind.SC, ObjectKind.SR]
    assert "Not assessed, because it does not look like" in _newest_sr().to_json()


def test_an_image_that_waits_for_the_network_is_left_to_the_next_revision(
    database_url: str, tmp_path: Path
) -> None:
    first, waiting = _receive(tmp_path, seed=1), _receive(tmp_path, seed=2)
    _read(first)
    _prepare(waiting)
    _make()
    assert first in _referred_to()
    assert waiting not in _referred_to()


def test_results_go_wherever_the_rule_of_one_of_the_senders_says(
    database_url: str, tmp_path: Path, hilum_env: SettingsChange
) -> None:
    places = [{"name": name, "ae_title": name, "host": "127.0.0.1", "port": 104} for name in ("A", "B", "C")]
    rules = [{"ae_title": f"ROOM_{name}", "destinations": [name]} for name in ("A", "B", "C")]
    hilum_env(destinations=places, senders=rules)
    _read(_receive(tmp_path, seed=1, sender_ae="ROOM_B"))
    _read(_receive(tmp_path, seed=2, sender_ae="ROOM_A"))
    _make()
    assert _destinations() == ["A", "B"]
    _refuse(_receive(tmp_path, seed=3, sender_ae="ROOM_C"))
    assert len(_make()) == 1
    assert _destinations() == ["A", "B", "C"]


def test_a_late_image_makes_a_revision_that_tells_of_those_too_whose_files_were_removed(
    database_url: str, tmp_path: Path
) -> None:
    gone = _receive(tmp_path, seed=1)
    _read(gone)
    _make()
    _remove_files()
    late = _receive(tmp_path, seed=2)
    _read(late)
    assert [each.revision for each in _make()] == [1, 2]
    assert {gone, late} < _referred_to()
    assert _kinds_of_the_newest() == [ObjectKind.SC, ObjectKind.SR], "there is nothing to draw the other over"
    assert _newest_sr().to_json().count(codes.DCM.Probability.value) == 2
    assert _newest_sr().PatientID == dcmread(tmp_path / "last.dcm").PatientID


def test_a_removed_image_that_another_network_has_not_read_is_reported_as_not_assessed(
    database_url: str, tmp_path: Path
) -> None:
    gone = _receive(tmp_path, seed=1)
    _read(gone)
    _make()
    _remove_files()
    _read(_receive(tmp_path, seed=2), network="e" * 64)
    assert len(_make()) == 2
    assert gone in _referred_to()
    assert "Not assessed, because its file was removed here because of its age" in _newest_sr().to_json()


def test_another_network_makes_a_revision_only_where_it_finds_something_else(
    database_url: str, tmp_path: Path
) -> None:
    first, second = _receive(tmp_path, seed=1), _receive(tmp_path, seed=2)
    _read(first)
    _read(second)
    assert len(_make()) == 1
    former = _newest_sr().SOPInstanceUID
    _read(first, network="e" * 64)
    _read(second, network="e" * 64)
    assert len(_make()) == 1
    _read(first, network="f" * 64)
    _read(second, network="f" * 64, label="Pneumonia")
    assert [each.revision for each in _make()] == [1, 2]
    [predecessor] = _newest_sr().PredecessorDocumentsSequence
    [series] = predecessor.ReferencedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [former]
    assert f"sha256 {'f' * 64}" in _newest_sr().to_json()


def test_an_image_that_another_network_refuses_is_withdrawn_by_a_revision(
    database_url: str, tmp_path: Path
) -> None:
    image = _receive(tmp_path, seed=1)
    _read(image)
    assert len(_make()) == 1
    _read(image, network="e" * 64, ood=1.01)
    assert len(_make()) == 2
    assert _kinds_of_the_newest() == [ObjectKind.SR]


def test_a_report_of_before_networks_could_be_exchanged_is_not_made_anew(
    database_url: str, tmp_path: Path
) -> None:
    _read(_receive(tmp_path, seed=1))
    _make()
    with transaction() as session:
        before = report._digest_of_before(report._facts(RECEIVED.study_uid))
        session.execute(update(Report).values(content_digest=before))
    assert len(_make()) == 1


def test_what_was_removed_goes_to_no_new_destination(
    database_url: str, tmp_path: Path, hilum_env: SettingsChange
) -> None:
    _read(_receive(tmp_path, seed=1))
    _make()
    _remove_files()
    hilum_env(destinations=[{"name": "A", "ae_title": "A", "host": "127.0.0.1", "port": 104}])
    _refuse(_receive(tmp_path, seed=2))
    assert len(_make()) == 1
    assert _destinations() == []


def test_a_study_that_was_forgotten_goes_on_with_the_next_revision(database_url: str, tmp_path: Path) -> None:
    _read(_receive(tmp_path, seed=1))
    _make()
    former = _newest_sr().SOPInstanceUID
    with transaction() as session:
        assert retention.remove_rows(session, RECEIVED.study_uid, _ANY_AGE)
    _read(_receive(tmp_path, seed=1))
    assert [each.revision for each in _make()] == [2]
    assert _newest_sr().SOPInstanceUID != former, "another report is another object"


@pytest.mark.parametrize("is_assessed", [True, False])
def test_the_same_number_after_a_restore_is_another_object_when_it_says_something_else(
    database_url: str, tmp_path: Path, is_assessed: bool
) -> None:
    _read(_receive(tmp_path, seed=1))
    was_sent = report._render(report._facts(RECEIVED.study_uid))
    assert _uids(report._render(report._facts(RECEIVED.study_uid))) == _uids(was_sent)
    late = _receive(tmp_path, seed=2)
    _read(late) if is_assessed else _refuse(late)
    assert report._facts(RECEIVED.study_uid).revision == 1, "nothing is known of the first"
    assert not _uids(report._render(report._facts(RECEIVED.study_uid))) & _uids(was_sent)


def _uids(rendered: Sequence[Rendered]) -> set[str]:
    return {uid for each in rendered for uid in (each.uid, each.series_uid)}


def _remove_files() -> None:
    with transaction() as session:
        assert retention.remove_files(session, RECEIVED.study_uid, _ANY_AGE)
    while remove_some():
        pass


def _receive(folder: Path, *, seed: int, sender_ae: str = "MODALITY") -> str:
    """A radiograph of the study, which has still to be prepared."""
    file = folder / "sent.dcm"
    ds = phantom(seed, "Normal", rows=60, columns=50, study_uid=RECEIVED.study_uid)
    ds.save_as(file, enforce_file_format=True)
    shutil.copyfile(file, folder / "last.dcm")
    path = Store(settings().store).place(file, INSTANCES, ds.SOPInstanceUID)
    receive(uid=ds.SOPInstanceUID, path=path, sender_ae=sender_ae)
    with transaction() as session:
        session.execute(update(Job).values(state=JobState.DONE))
    return str(ds.SOPInstanceUID)


def _refuse(uid: str) -> None:
    with transaction() as session:
        lateral = Preparation(uid, "LATERAL", not_assessed_because="the view is lateral")
        studies.save_preparations(session, [lateral])


def _prepare(uid: str) -> None:
    store = Store(settings().store)
    folder = store.folder(PREPARED, uid)
    Image.new("L", (50, 60)).save(store.path(folder) / DISPLAY_FILE)
    with transaction() as session:
        studies.save_preparations(session, [Preparation(uid, "PA", folder, pixel_hash=uid)])


def _read(
    uid: str,
    *,
    ood: float = 0.5,
    has_map: bool = True,
    network: str = "d" * 64,
    label: str = "Normal",
) -> None:
    _prepare(uid)
    heat = [[0.0] * 7] * 7 if has_map else []
    said = Read(uid, uid, label, {label: 1.0}, ood=ood, heat=heat)
    with transaction() as session:
        findings.note_network(session, digest=network, version="first", manifest={})
        findings.save(session, [said], network_digest=network, preprocessing="p")


def _make() -> list[Report]:
    """Do the work of the report, and return all of the study."""
    with transaction() as session:
        jobs.want(session, REPORT, RECEIVED.study_uid, study_uid=RECEIVED.study_uid)
    held = claim(REPORT, RECEIVED.study_uid)
    assert held is not None
    report._report(held)
    with transaction() as session:
        return reports.of_study(session, RECEIVED.study_uid)


def _newest_sr() -> Dataset:
    with transaction() as session:
        newest = reports.latest(session, RECEIVED.study_uid)
        assert newest is not None
        [path] = [each.path for each in newest.objects if each.kind == ObjectKind.SR]
    return dcmread(Store(settings().store).path(path))


def _kinds_of_the_newest() -> list[ObjectKind]:
    with transaction() as session:
        newest = reports.latest(session, RECEIVED.study_uid)
        assert newest is not None
        return sorted(each.kind for each in newest.objects)


def _referred_to() -> set[str]:
    [study] = _newest_sr().CurrentRequestedProcedureEvidenceSequence
    return {
        each.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for each in series.ReferencedSOPSequence
    }


def _destinations() -> list[str]:
    with transaction() as session:
        return sorted(each.destination for each in reports.deliveries(session, RECEIVED.study_uid))


def _state() -> StudyState:
    with transaction() as session:
        return session.get_one(Study, RECEIVED.study_uid).state


def _files() -> list[Path]:
    with transaction() as session:
        [made] = reports.of_study(session, RECEIVED.study_uid)
        return [Store(settings().store).path(each.path) for each in made.objects]
