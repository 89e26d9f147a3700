"""Making a report: what is sent is what was committed, whoever else was at it."""

from datetime import datetime
from pathlib import Path

import pytest

from db import jobs, reports, studies
from db.session import transaction
from db.studies import Preparation
from hilum.phantom import phantom
from hilum.queue import REPORT
from hilum.settings import settings
from hilum.store import INSTANCES, Store
from tests.peers.studies import RECEIVED, claim, receive
from worker import report

# the SQL is tried on every database elsewhere; here it is the files that matter
pytestmark = pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)


def test_a_worker_that_has_lost_its_lease_changes_no_report_of_another(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _receive_a_lateral_view(tmp_path)
    left_behind = report._facts(RECEIVED.study_uid)
    held = claim(REPORT, RECEIVED.study_uid)
    assert held is not None
    report._report(held)
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


def _receive_a_lateral_view(folder: Path) -> None:
    file = folder / "sent.dcm"
    ds = phantom(1, "Normal", rows=60, columns=50, study_uid=RECEIVED.study_uid, view_position="LL")
    ds.save_as(file, enforce_file_format=True)
    receive(uid=ds.SOPInstanceUID, path=Store(settings().store).place(file, INSTANCES, ds.SOPInstanceUID))
    with transaction() as session:
        prepared = Preparation(ds.SOPInstanceUID, "LATERAL", not_assessed_because="the view is lateral")
        studies.save_preparations(session, [prepared])
        jobs.want(session, REPORT, RECEIVED.study_uid, study_uid=RECEIVED.study_uid)


def _files() -> list[Path]:
    with transaction() as session:
        [made] = reports.of_study(session, RECEIVED.study_uid)
        return [Store(settings().store).path(each.path) for each in made.objects]
