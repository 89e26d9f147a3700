"""What a stranger's header says."""

import re
import warnings

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def text(header: Dataset, keyword: str) -> str:
    """Return an attribute of a stranger's header as text: "" when it is missing, empty or unreadable.

    Several values are joined by backslashes, as DICOM writes them. Control characters are dropped.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on values that we clean here
            value = header.get(keyword)
            return _UNWRITABLE.sub("", _joined(value)).strip()
    except Exception:  # a stranger's bytes: decoding a value can raise anything
        return ""


def _joined(value: object) -> str:
    if value is None or isinstance(value, Sequence):
        return ""
    if isinstance(value, bytes):  # a text attribute written as UN or OB
        return value.decode("utf-8", errors="replace")
    if isinstance(value, MultiValue | list):
        return "\\".join(str(one) for one in value)
    return str(value)
