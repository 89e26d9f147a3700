"""What the header and the sender say of an object, as the database records it."""

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from db.studies import Received
from dicom_listener.contents import Contents
from dicom_listener.status import CANNOT_UNDERSTAND, Refused
from hilum.phantom import is_phantom
from hilum.uids import is_uid

_HURRIES = {"STAT", "HIGH"}
"""Values of Requested Procedure Priority (0040,1003) that go before others, PS3.3 C.4.11."""


def received(
    contents: Contents,
    *,
    transfer_syntax_uid: str,
    sender_ae: str,
    sender_is_urgent: bool,
    size_bytes: int,
) -> Received:
    """Return the row of an object that has still to be put into its place.

    Raises Refused when one of its UIDs is missing or has not the form of a UID.
    """
    ds = contents.header
    return Received(
        uid=required_uid(ds, "SOPInstanceUID"),
        study_uid=required_uid(ds, "StudyInstanceUID"),
        series_uid=required_uid(ds, "SeriesInstanceUID"),
        sop_class_uid=required_uid(ds, "SOPClassUID"),
        transfer_syntax_uid=transfer_syntax_uid,
        sender_ae=sender_ae,
        path="",
        size_bytes=size_bytes,
        pixel_digest=contents.pixel_digest,
        has_pixels=contents.has_pixels,
        ours=_is_ours(ds),
        urgent=sender_is_urgent or not _HURRIES.isdisjoint(contents.priorities),
        phantom=is_phantom(ds),
        view=_text(ds, "ViewPosition", 16),
        modality=_text(ds, "Modality", 16),
        series_description=_text(ds, "SeriesDescription"),
        patient_id=_text(ds, "PatientID", 64),
        patient_name=_text(ds, "PatientName"),
        patient_birth_date=_text(ds, "PatientBirthDate", 16),
        patient_sex=_text(ds, "PatientSex", 16),
        accession_number=_text(ds, "AccessionNumber", 64),
        study_date=_text(ds, "StudyDate", 16),
        study_description=_text(ds, "StudyDescription"),
    )


def required_uid(ds: Dataset, keyword: str) -> str:
    """The UID of this attribute; raises Refused when it is missing or has not the form of a UID."""
    uid = _text(ds, keyword)
    if not is_uid(uid):
        raise Refused(CANNOT_UNDERSTAND, f"{keyword} is missing or not a UID")
    return uid


def _is_ours(ds: Dataset) -> bool:
    made_by = (_text(ds, "Manufacturer"), _text(ds, "ManufacturerModelName"))
    is_of_our_kind = _text(ds, "SOPClassUID") in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
    return is_of_our_kind and made_by == ("Hilum", "Hilum") and bool(_text(ds, "SoftwareVersions"))


def _text(ds: Dataset, keyword: str, longest: int = 1024) -> str:
    """The attribute in one printable line, empty when it is missing or cannot be read."""
    try:
        value = ds.get(keyword)
        text = "" if value is None else "\\".join(map(str, value)) if _is_multiple(value) else str(value)
    except Exception:  # the border with whoever wrote the header: converting a value can raise anything
        return ""
    return "".join(character for character in text if character.isprintable()).strip()[:longest]


def _is_multiple(value: object) -> bool:
    return isinstance(value, MultiValue | list)
