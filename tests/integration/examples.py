"""Rows for tests that are about something else."""

from itertools import count
from typing import Any

from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from sqlalchemy.orm import Session

from db import studies
from db.studies import Received

STUDY = "1.2.3.4"
_numbers = count(1)


def an_object(**changes: Any) -> Received:
    """A chest radiograph of STUDY that nobody has seen before, with these changes."""
    number = next(_numbers)
    usual: dict[str, Any] = {
        "uid": f"{STUDY}.1.{number}",
        "study_uid": STUDY,
        "series_uid": f"{STUDY}.1",
        "sop_class_uid": str(ComputedRadiographyImageStorage),
        "transfer_syntax_uid": str(ExplicitVRLittleEndian),
        "sender_ae": "MODALITY",
        "path": f"instances/{number}.dcm",
        "size_bytes": 1000,
        "pixel_digest": f"{number:064x}",
        "modality": "CR",
    }
    return Received(**usual | changes)


def record_a_study(session: Session, study_uid: str = STUDY) -> None:
    """A study with one image and the work that it makes necessary, due now."""
    studies.record(session, an_object(study_uid=study_uid, series_uid=f"{study_uid}.1"), settle_s=0)
