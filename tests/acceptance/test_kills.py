"""What dies in mid-study loses nothing and doubles nothing."""

import os
import signal

from db.tables import JobState
from tests.acceptance.conftest import (
    SC,
    SR,
    MakeStudy,
    all_findings,
    jobs_of,
    reports_of,
    study,
    study_uid,
    wait_until_over,
)
from tests.peers.helpers import wait_for
from tests.peers.orthanc import Orthanc
from tests.peers.system import System

STUDIES = 8


def test_a_killed_prepare_child_loses_nothing(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    uids = _send(system, make_study)
    _wait_for_work_at("worker.prepare", uids)
    for child in system.pids("prepare")[1:]:
        os.kill(child, signal.SIGKILL)
    _assert_each_is_read_once(uids, orthanc)


def test_a_killed_classify_worker_loses_nothing(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    uids = _send(system, make_study)
    _wait_for_work_at("worker.classify", uids)
    system.kill("classify")
    _assert_each_is_read_once(uids, orthanc)


def test_a_killed_deliver_worker_loses_nothing(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    uids = _send(system, make_study)
    _wait_for_work_at("worker.report", uids)
    system.kill("deliver")
    _assert_each_is_read_once(uids, orthanc)


def test_an_emptied_broker_loses_nothing(system: System, orthanc: Orthanc, make_study: MakeStudy) -> None:
    with system.stopped("prepare"):
        uids = _send(system, make_study)
        wait_for(lambda: system.messages("prepare") == STUDIES, 30, "a bell for each study")
        system.empty_broker()
    _assert_each_is_read_once(uids, orthanc)


def test_a_system_that_is_stopped_and_started_goes_on_where_it_was(
    system: System, orthanc: Orthanc, make_study: MakeStudy
) -> None:
    uids = _send(system, make_study)
    _wait_for_work_at("worker.prepare", uids)
    system.stop()
    system.start()
    _assert_each_is_read_once(uids, orthanc)


def _send(system: System, make_study: MakeStudy) -> list[str]:
    paths = [make_study(seed) for seed in range(STUDIES)]
    assert system.send(*paths).returncode == 0
    return [study_uid(path) for path in paths]


def _wait_for_work_at(kind: str, uids: list[str]) -> None:
    """Wait until some study has come as far as this kind of work."""

    def is_there() -> bool:
        jobs = [job for uid in uids for job in jobs_of(uid) if job.kind == kind]
        return any(job.lease_token or job.state == JobState.DONE for job in jobs)

    wait_for(is_there, 60, kind)


def _assert_each_is_read_once(uids: list[str], orthanc: Orthanc) -> None:
    wait_until_over(uids, 150)
    for uid in uids:
        assert study(uid) is not None
        assert len(all_findings(uid)) == 1
        assert len(reports_of(uid)) == 1
        assert sorted(each["Modality"] for each in orthanc.instances(uid)) == [SC, SR]
