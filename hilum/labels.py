"""What an image can be called: the network's classes, "Rejected", how people write them, and their codes."""

import re
from collections.abc import Mapping

from pydicom.sr.coding import Code

from hilum.network import LABELS

REJECTED = "Rejected"
"""A person's word that an image is no training data, whatever it shows: blurred, cut off, of another."""
VERDICTS = (*LABELS, REJECTED)
"""What a person can say of an image."""
LOCAL_SCHEME = "99HILUM"
"""Coding scheme of the codes that are ours; private designators begin with 99 (PS3.16 section 8)."""
FINDING_CODES: Mapping[str, Code] = {
    "Normal": Code("17621005", "SCT", "Normal"),
    "Pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "COVID-19": Code("840539006", "SCT", "COVID-19"),
    "Other": Code("OTHER", LOCAL_SCHEME, "Other abnormality"),
}
"""The code that says each of the network's labels; "Other" is abnormal and must never read as normal."""


def label_of(written: str) -> str | None:
    """The label that is meant, however it is written: COVID-19, covid19, Covid_19; None when it is none."""
    return _BY_PLAIN.get(_plain(written))


def verdict_of(written: str) -> str | None:
    """Likewise, of all that a person can say: a label, or that the image is rejected."""
    return REJECTED if _plain(written) == _plain(REJECTED) else label_of(written)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


_BY_PLAIN = {_plain(label): label for label in LABELS}
