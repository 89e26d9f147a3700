"""When a destination is asked for storage commitment again, and what requests and reports must hold."""

import pytest
from pydicom import Dataset

from db.commitments import Standing
from hilum import commitment
from hilum.commitment import NO_SUCH_OBJECT, Malformed, Report, Request
from hilum.errors import RefusedByPacs
from hilum.settings import Destination
from worker.commitment import in_words, pause_s, require_hope

PACS = Destination(
    name="pacs", ae_title="PACS", host="h", port=104, final_when="commitment", commitment_timeout_s=100
)


def standing(
    *,
    answers: int = 0,
    unanswered: int = 1,
    asked_for_s: float | None = None,
    answered_for_s: float | None = None,
    reason: int = NO_SUCH_OBJECT,
) -> Standing:
    return Standing(frozenset(["1.2"]), {"1.2": reason}, answers, unanswered, asked_for_s, answered_for_s)


def pause(**facts: float) -> float:
    return pause_s(standing(**facts), PACS, longest_pause_s=300)  # type: ignore[arg-type]


def test_an_answer_is_waited_for_until_its_time_is_up() -> None:
    assert pause(asked_for_s=0) == 100
    assert pause(asked_for_s=99) == 1
    assert pause(asked_for_s=101) == 0
    assert pause(asked_for_s=101, unanswered=2) == 99
    assert pause(asked_for_s=0, unanswered=50) == 24 * 3600


def test_a_clock_that_was_set_back_makes_nothing_wait_until_it_has_come_round_again() -> None:
    assert pause(asked_for_s=-3600) == 0
    assert pause(answers=4, answered_for_s=-3600) == 0


def test_what_was_never_asked_is_asked_at_once() -> None:
    assert pause() == 0


def test_what_is_refused_is_sent_again_at_once_then_after_growing_pauses_up_to_the_longest() -> None:
    assert [pause(answers=count, answered_for_s=0.0) for count in (1, 2, 3, 4, 50)] == [0, 2, 6, 14, 300]
    assert pause(answers=4, answered_for_s=13) == 1


def test_a_reason_that_cannot_heal_is_no_reason_to_send_again() -> None:
    require_hope(standing(answers=1, answered_for_s=0), PACS)
    with pytest.raises(RefusedByPacs, match="0x0122 referenced SOP class not supported"):
        require_hope(standing(answers=1, answered_for_s=0, reason=0x0122), PACS)


def test_people_are_told_what_is_waited_for() -> None:
    assert in_words(standing(asked_for_s=1), "pacs") == (
        "pacs was asked to commit to 1 objects and has not reported yet"
    )
    assert in_words(standing(answered_for_s=1, reason=0x0FFF), "pacs") == (
        "pacs does not commit to 1 objects: 0x0FFF unknown reason"
    )


def test_requests_and_reports_are_read_as_they_were_written() -> None:
    request = Request("1.2.3", {"1.2.4": "1.2.840", "1.2.5": "1.2.840"})
    assert commitment.read_request(commitment.request_information(request)) == request
    report = Report("1.2.3", {"1.2.4": "1.2.840"}, {"1.2.5": ("1.2.840", NO_SUCH_OBJECT)})
    assert commitment.read_report(commitment.report_information(report)) == report
    assert (report.event_type, Report("1.2.3", report.committed).event_type) == (2, 1)


def test_what_a_report_lists_as_committed_and_as_failed_is_not_committed() -> None:
    both = Report("1.2.3", {"1.2.4": "1.2.840", "1.2.5": "1.2.840"}, {"1.2.5": ("1.2.840", NO_SUCH_OBJECT)})
    report = commitment.read_report(commitment.report_information(both))
    assert (list(report.committed), list(report.failed)) == (["1.2.4"], ["1.2.5"])


def test_what_lacks_a_uid_is_malformed() -> None:
    nameless = commitment.request_information(Request("1.2.3", {"1.2.4": "1.2.840"}))
    del nameless.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    with pytest.raises(Malformed, match="refers to no object"):
        commitment.read_request(commitment.request_information(Request("1.2.3", {})))
    with pytest.raises(Malformed, match="TransactionUID is missing or not a UID"):
        commitment.read_report(Dataset())
    with pytest.raises(Malformed, match="ReferencedSOPInstanceUID is missing or not a UID"):
        commitment.read_request(nameless)
