"""What an image can be called: the network's classes, "Rejected", how people write them, and their codes."""

import re
from collections.abc import Mapping

from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
)

from hilum.network import LABELS

REJECTED = "Rejected"
"""A person's word that an image is no training data, whatever it shows: blurred, cut off, of another."""
VERDICTS = (*LABELS, REJECTED)
"""What a person can say of an image."""
LOCAL_SCHEME = "99HILUM"
"""Coding scheme of the codes that are ours; private designators begin with 99 (PS3.16 section 8)."""
CODES: Mapping[str, tuple[str, str, str]] = {
    "Normal": ("17621005", "SCT", "Normal"),
    "Pneumonia": ("233604007", "SCT", "Pneumonia"),
    "COVID-19": ("840539006", "SCT", "COVID-19"),
    "Other": ("OTHER", LOCAL_SCHEME, "Other abnormality"),
    REJECTED: ("113001", "DCM", "Rejected for Quality Reasons"),
}
"""Value, scheme and meaning of the code that says each; "Other" is abnormal and must never read as normal.

That of "Rejected" is the title of a note that rejects images (PS3.16, CID 7010).
"""
SPOKEN_IN = frozenset(
    {
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        KeyObjectSelectionDocumentStorage,
    }
)
"""Storage SOP classes of objects in which a person may have given a verdict."""


def label_of(written: str) -> str | None:
    """The label that is meant, however it is written: COVID-19, covid19, Covid_19; None when it is none."""
    return _BY_PLAIN.get(_plain(written))


def verdict_of(written: str) -> str | None:
    """Likewise, of all that a person can say: a label, or that the image is rejected."""
    return REJECTED if _plain(written) == _plain(REJECTED) else label_of(written)


def verdict_of_code(value: str, scheme: str) -> str | None:
    """What a coded finding says of an image; None when it is nothing that we know."""
    return _BY_CODE.get((value, scheme))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


_BY_CODE = {(value, scheme): label for label, (value, scheme, _) in CODES.items()}
_BY_PLAIN = {_plain(label): label for label in LABELS}
