"""A picture of a radiograph (JPEG, PNG) as the DX object that a hospital would have sent."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from hilum import radiograph
from hilum.phantom import CHEST, VIEWS

PICTURES = (".jpg", ".jpeg", ".png")
MANIFEST = "manifest.csv"
"""May lie beside the pictures, or above them: its columns `file` (relative to it), `patient_id`, `view`,
`sex` and `age` (years) are taken where they are there."""


def wrap(picture: Path, about: Mapping[str, str] | None = None) -> FileDataset:
    """Return a picture as a DX image for presentation (PS3.3 A.26), a new study of its own.

    Colour becomes gray. `about` is the picture's line of a manifest; without one the view is PA, the
    patient id is the file's name, and sex and age stay unsaid. Raises Undecodable when it is no
    picture.
    """
    about = about or {}
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(prefix=None)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    _add_pixels(ds, radiograph.picture(picture))
    _add_patient(ds, picture.stem, about)
    _add_image(ds, about.get("view", "").upper() or "PA")
    return ds


def manifest_lines(folder: Path) -> dict[Path, dict[str, str]]:
    """Return picture -> its line of the manifest in this folder; nothing when there is none."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return {}
    with manifest.open(newline="", encoding="utf-8-sig") as lines:  # a spreadsheet may write a BOM
        return {folder / line["file"]: line for line in csv.DictReader(lines) if line.get("file")}


def _add(ds: Dataset, **elements: Any) -> None:
    for keyword, value in elements.items():
        setattr(ds, keyword, value)


def _add_pixels(ds: Dataset, pixels: NDArray[np.uint8]) -> None:
    _add(
        ds,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=-1,
        RescaleIntercept=0,
        RescaleSlope=1,
        RescaleType="US",
        PresentationLUTShape="IDENTITY",
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
        WindowCenter=128,
        WindowWidth=256,
    )
    content = pixels.tobytes()
    ds.add_new("PixelData", "OB", content + bytes(len(content) % 2))


def _add_patient(ds: Dataset, name: str, about: Mapping[str, str]) -> None:
    patient_id = (about.get("patient_id") or name)[:64]
    age = about.get("age", "").partition(".")[0]
    sex = about.get("sex", "").upper()
    _add(
        ds,
        SpecificCharacterSet="ISO_IR 192",
        PatientName=patient_id.replace("^", " "),
        PatientID=patient_id,
        PatientBirthDate="",
        PatientSex=sex if sex in ("M", "F") else "",
        StudyDate="",
        StudyTime="",
        StudyID="",
        AccessionNumber="",
        ReferringPhysicianName="",
        StudyDescription="Chest",
    )
    if age.isdigit():
        ds.PatientAge = f"{int(age):03}Y"


def _add_image(ds: Dataset, view: str) -> None:
    _add(
        ds,
        Modality="DX",
        PresentationIntentType="FOR PRESENTATION",
        SeriesNumber=1,
        InstanceNumber=1,
        Manufacturer="",
        ImageType=["DERIVED", "PRIMARY"],
        DerivationDescription="A picture file wrapped by Hilum",
        ImageLaterality="U",
        PatientOrientation=["L", "F"],
        PositionerType="",
        BodyPartExamined="CHEST",
        ViewPosition=view if view in VIEWS else "",
        AcquisitionContextSequence=[],
        AnatomicRegionSequence=[_item(CHEST)],
        ImagerPixelSpacing=[0.4, 0.4],
        KVP=None,
        DetectorType="",
    )
    if view in VIEWS:
        code = _item(VIEWS[view])
        code.ViewModifierCodeSequence = []
        ds.ViewCodeSequence = [code]


def _item(code: Code) -> Dataset:
    item = Dataset()
    _add(item, CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
    return item
