"""The listener's bells: whatever happens to one, the next one rings."""

import pytest

from dicom_listener import bells
from tests.peers.helpers import wait_for


def test_a_bell_that_breaks_silences_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[str] = []

    def ring(kind: str, subject: str, **how: object) -> None:
        rung.append(subject)
        if subject == "1.2.3":
            raise ZeroDivisionError

    monkeypatch.setattr(bells, "ring", ring)
    waiting = bells.Bells()
    for study_uid in ("1.2.3", "1.2.4"):
        waiting.ring(study_uid, urgent=False, settle_s=0)
    wait_for(lambda: rung == ["1.2.3", "1.2.4"], what="both bells")
    waiting.stop(5)
