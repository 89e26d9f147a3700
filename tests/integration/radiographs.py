"""Small radiographs for the listener, made to order."""

from itertools import count
from typing import Any

from pydicom import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

ROOT_UID = "1.2.826.0.1.3680043.10.1511.7"
_numbers = count(1)


def new_uid() -> str:
    """A UID that no other test has."""
    return f"{ROOT_UID}.{next(_numbers)}"


def radiograph(**changes: Any) -> Dataset:
    """A DX of 64 x 64 pixels of a study of its own, with these attributes changed, or left out when None."""
    study_uid = new_uid()
    usual: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": new_uid(),
        "StudyDate": "20260101",
        "Modality": "DX",
        "PatientName": "Doe^John",
        "PatientID": "4711",
        "ViewPosition": "PA",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": f"{study_uid}.1",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 64,
        "Columns": 64,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": bytes(64 * 64 * 2),
    }
    ds = Dataset()
    for keyword, value in (usual | changes).items():
        if value is not None:
            setattr(ds, keyword, value)
    ds["PixelData"].VR = "OW"
    return ds


def large(size_bytes: int) -> dict[str, Any]:
    """Attributes of an image whose pixels take this many bytes."""
    return {"Rows": 1, "Columns": 1, "PixelData": bytes(size_bytes)}
