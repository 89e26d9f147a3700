"""A new instance in the study of a source instance, whose header may be dirty.

What identifies patient and study is copied as it was read, so that the PACS files our objects with the
study. What would make our object invalid (a date that is none, a sex that is no code) is left empty.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from hilum import __version__
from hilum.header import text

_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})")
_TIME = re.compile(r"([01]\d|2[0-3])(:?[0-5]\d(:?[0-5]\d(\.\d{1,6})?)?)?")
_AGE = re.compile(r"\d{3}[DWMY]")
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")


def _clean_date(value: str) -> str:
    """Return YYYYMMDD; the older YYYY.MM.DD is read too (PS3.5 6.2)."""
    match = _DATE.fullmatch(value)
    if match is None:
        return ""
    year, _, month, day = match.groups()
    try:
        return date(int(year), int(month), int(day)).strftime("%Y%m%d").rjust(8, "0")
    except ValueError:
        return ""


def _clean_time(value: str) -> str:
    return value.replace(":", "") if _TIME.fullmatch(value) else ""


def _clean_sex(value: str) -> str:
    return value.upper() if value.upper() in ("M", "F", "O") else ""


def _clean_age(value: str) -> str:
    return value if _AGE.fullmatch(value) else ""


def _clean_yes_or_no(value: str) -> str:
    return value if value in ("YES", "NO") else ""


def _clean_offset(value: str) -> str:
    return value if _OFFSET.fullmatch(value) else ""


_ALWAYS: Mapping[str, Callable[[str], str]] = {
    "PatientName": str,
    "PatientID": str,
    "PatientBirthDate": _clean_date,
    "PatientSex": _clean_sex,
    "StudyDate": _clean_date,
    "StudyTime": _clean_time,
    "AccessionNumber": str,
    "ReferringPhysicianName": str,
    "StudyID": str,
}
"""Type 2 attributes of the Patient and General Study modules: there, if only empty."""

_WHEN_KNOWN: Mapping[str, Callable[[str], str]] = {
    "IssuerOfPatientID": str,
    "PatientAge": _clean_age,
    "StudyDescription": str,
    "PatientIdentityRemoved": _clean_yes_or_no,
    "DeidentificationMethod": str,
    "TimezoneOffsetFromUTC": _clean_offset,
}


def _patient_and_study(header: Dataset) -> Dataset:
    ds = Dataset()
    for keyword, cleaned in _ALWAYS.items():
        setattr(ds, keyword, cleaned(text(header, keyword)))
    for keyword, cleaned in _WHEN_KNOWN.items():
        if value := cleaned(text(header, keyword)):
            setattr(ds, keyword, value)
    return ds


def in_zone_of(header: Dataset, created: datetime) -> datetime:
    """Return the time in the source's zone: TimezoneOffsetFromUTC holds for every time of an instance."""
    match = _OFFSET.fullmatch(text(header, "TimezoneOffsetFromUTC"))
    if match is None:
        return created
    sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return created.astimezone(timezone(offset if sign == "+" else -offset))


def new_instance(
    header: Dataset, *, sop_class_uid: str, uid: str, series_uid: str, modality: str, created: datetime
) -> Dataset:
    """Return a data set in the study of `header` with what all our objects share, ready to be added to.

    It has the patient, study, series, equipment and SOP common attributes and its file meta information
    (Explicit VR Little Endian); text is UTF-8 whatever the source's character set was. Times are those of
    `created`, in the source's time zone where the source names one, else in `created`'s own.
    """
    ds = _patient_and_study(header)
    now = in_zone_of(header, created)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = uid
    ds.StudyInstanceUID = text(header, "StudyInstanceUID")
    ds.SeriesInstanceUID = series_uid
    ds.Modality = modality
    ds.Manufacturer = "Hilum"
    ds.ManufacturerModelName = "Hilum"
    ds.SoftwareVersions = __version__
    ds.DeviceSerialNumber = __version__  # software of one version is one device
    for when in ("InstanceCreation", "Content", "Series"):
        setattr(ds, f"{when}Date", now.strftime("%Y%m%d"))
        setattr(ds, f"{when}Time", now.strftime("%H%M%S.%f"))
    ds.file_meta = _file_meta(sop_class_uid, uid)
    return ds


def _file_meta(sop_class_uid: str, uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def reference(header: Dataset) -> Dataset:
    """Return an item that refers to an instance (PS3.3 table 10-11): its SOP Class and Instance UID."""
    item = Dataset()
    item.ReferencedSOPClassUID = text(header, "SOPClassUID")
    item.ReferencedSOPInstanceUID = text(header, "SOPInstanceUID")
    return item
