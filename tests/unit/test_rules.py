"""What the settings ask of a caller."""

import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
)
from pynetdicom import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)

from dicom_listener.rules import LONGEST_DELAY_S, Pace, allowed, objection, objection_to_reports
from hilum.settings import Destination, Sender

OWN, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("rules", "certificate", "words"),
    [
        ({}, None, None),
        ({"tls": True}, None, "it must call by TLS"),
        ({"tls": True}, OTHER, None),
        ({"certificate_sha256": [OWN]}, None, "it must call by TLS"),
        ({"certificate_sha256": [OWN]}, OTHER, "its certificate is another than its own: bbb"),
        ({"certificate_sha256": [OTHER, OWN]}, OWN, None),
        ({"addresses": ["10.0.0.0/8"]}, OWN, "it calls from another address"),
        ({"addresses": ["10.0.0.0/8", "192.0.2.1"]}, OWN, None),
    ],
)
def test_a_sender_calls_as_its_rules_say(
    rules: dict[str, object], certificate: str | None, words: str | None
) -> None:
    said = objection(Sender(ae_title="A", **rules), "192.0.2.1", certificate)
    assert (said is None) if words is None else (said is not None and said.startswith(words))


def test_whoever_is_no_sender_is_told_so() -> None:
    assert objection(None, "192.0.2.1", OWN) == "it is no sender of the settings"


def test_a_destination_that_is_called_by_tls_reports_by_tls() -> None:
    place = Destination(name="a", ae_title="A", host="a", port=104)
    secured = place.model_copy(update={"tls": True})
    assert objection_to_reports([place], None) is None
    assert objection_to_reports([secured], None) == "it must call by TLS"
    assert objection_to_reports([secured], OWN) is None


def test_only_the_sop_classes_of_a_sender_are_negotiated_and_what_stores_nothing() -> None:
    classes = [
        ComputedRadiographyImageStorage,
        CTImageStorage,
        DigitalXRayImageStorageForPresentation,
        Verification,
        StorageCommitmentPushModel,
    ]
    contexts = [build_context(each) for each in classes]
    assert allowed(contexts, Sender(ae_title="A")) == contexts
    narrow = Sender(ae_title="A", sop_classes=(DigitalXRayImageStorageForPresentation,))
    assert [each.abstract_syntax for each in allowed(contexts, narrow)] == classes[2:]


def test_a_sender_sends_a_minutes_worth_at_once_and_then_evenly() -> None:
    pace, sender = Pace(), Sender(ae_title="A", objects_per_minute=60)
    assert [pace.delay_s(sender, 100.0) for _ in range(60)] == [0.0] * 60
    assert [pace.delay_s(sender, 100.0 + second) for second in (0, 1, 2)] == [1.0, 1.0, 1.0]
    assert pace.delay_s(Sender(ae_title="B", objects_per_minute=60), 100.0) == 0.0, "each has its own"
    assert pace.delay_s(Sender(ae_title="A"), 100.0) == 0.0, "without a rule"


def test_what_no_delay_holds_is_refused_and_not_counted() -> None:
    pace, sender = Pace(), Sender(ae_title="A", objects_per_minute=60)
    delays = [pace.delay_s(sender, 0.0) for _ in range(80)]
    assert delays[60:70] == list(range(1, 11))
    assert delays[69] == LONGEST_DELAY_S
    assert delays[70:] == [None] * 10
    assert pace.delay_s(sender, 1.0) == LONGEST_DELAY_S
