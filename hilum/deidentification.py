"""De-identification of chest radiographs: PS3.15 Annex E, its basic profile and two of its options.

A radiograph is not cleaned, it is made anew: of the stranger's data set only what is named here is read, each
value is checked to be a number or one of the words that the standard defines, and written again. What is
unknown, private, text or nested elsewhere is nowhere copied, so that nothing has to be known as identifying.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from hilum import __version__, radiograph
from hilum.eligibility import View, view_of
from hilum.header import text
from hilum.phantom import CHEST, VIEWS
from hilum.pseudonyms import Pseudonyms

OLDEST_YEARS = 90
"""Whoever is older is said to be of this age."""


Rule = Callable[[Any], Any]
"""Makes an attribute's value of a stranger's; None leaves the attribute out."""

_METHOD = "Basic Application Confidentiality Profile; made anew from an allow-list"
_METHOD_CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
}
"""PS3.16 CID 7050, of DCM."""
_DIGITS = 5
_WINDOWS = 8
_TIMED = ("Study", "Series", "Acquisition", "Content")


def deidentified(
    ds: Dataset, pixels: NDArray[np.uint16 | np.int16], names: Pseudonyms, patient_id: str
) -> FileDataset:
    """Return a frontal chest radiograph under pseudonyms, in Explicit VR Little Endian, ready to be saved.

    `pixels` are its `hilum.radiograph.stored_values`: they are written as they are, uncompressed, because a
    compressed stream has room for comments. That they show no text is for the caller to see to.
    `patient_id` says whose pseudonym and time shift it gets; the data set's own is not read.
    """
    made = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    _add_kept(made, ds, _KEPT)
    _add_patient(made, ds, names.patient(patient_id))
    _add_times(made, ds, names.shift(patient_id))
    _add_uids(made, ds, names)
    _add_view(made, ds)
    _add_tables(made, ds, pixels)
    _add_pixels(made, pixels, int(ds.BitsStored))
    _add_method(made)
    _add(made, **{keyword: None for keyword in _NEEDED if keyword not in made})
    return made


def age_years(ds: Dataset) -> int | None:
    """Return the age in whole years as it may be told, at most OLDEST_YEARS; None where it is unknown."""
    stated = re.fullmatch(r"(\d{3})([DWMY])", text(ds, "PatientAge"))
    if stated:
        years = int(int(stated[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[stated[2]])
        return min(years, OLDEST_YEARS)
    born, taken = _moment(text(ds, "PatientBirthDate"), ""), _moment(text(ds, "StudyDate"), "")
    if born is None or taken is None or taken < born:
        return None
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return min(years, OLDEST_YEARS)


def sex(ds: Dataset) -> str:
    """Return M, F, O or nothing."""
    said = text(ds, "PatientSex").upper()
    return said if said in ("M", "F", "O") else ""


def _values(value: Any) -> list[Any]:
    if value is None or isinstance(value, str | bytes):
        return [value]
    return list(value) if isinstance(value, Iterable) else [value]


def _number(value: Any, low: float, high: float) -> float | int | None:
    """A number in this range, rounded to _DIGITS, so that no date and no telephone number passes as one."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not low <= number <= high:
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _in(low: float, high: float, *, most: int = 1) -> Rule:
    """Make a rule for at most so many numbers of this range, all of them or none."""

    def rule(value: Any) -> Any:
        said = _values(value)
        made = [_number(each, low, high) for each in said[:most]]
        if len(said) > most or None in made:
            return None
        return made[0] if len(made) == 1 else made

    return rule


def _whole(low: int, high: int) -> Rule:
    """Make a rule for a whole number of this range."""

    def rule(value: Any) -> int | None:
        made = _number(value, low, high)
        return made if isinstance(made, int) else None

    return rule


def _one_of(*words: str) -> Rule:
    """Make a rule for a defined word, or several; those that are not defined are left out."""

    def rule(value: Any) -> Any:
        said = [word for word in (str(each).strip().upper() for each in _values(value)) if word in words]
        return said if len(said) > 1 else said[0] if said else None

    return rule


def _directions(value: Any) -> list[str] | None:
    """Patient Orientation (PS3.3 C.7.6.1.1.1): two directions of at most three letters."""
    said = [str(each).strip() for each in _values(value)]
    fits = len(said) == 2 and all(re.fullmatch("[APRLHF]{1,3}", each) for each in said)
    return said if fits else None


_COUNT = _whole(0, 9999)  # some systems count with dates or accession numbers
_PIXEL = _whole(-(2**15), 2**16 - 1)
_GRAY = _in(-1e5, 1e5, most=_WINDOWS)
_SPACING = _in(0.01, 10, most=2)  # mm
_INDEX = _in(0, 20_000)  # of exposure, in the ways of IEC 62494-1 and of vendors
_DISTANCE = _in(10, 5000)  # mm
_EDGE = _whole(-20_000, 20_000)

_KEPT: Mapping[str, Rule] = {
    "SOPClassUID": str,
    "Modality": _one_of("CR", "DX"),
    "ImageType": _one_of("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY"),
    "PresentationIntentType": _one_of("FOR PRESENTATION"),
    "SeriesNumber": _COUNT,
    "AcquisitionNumber": _COUNT,
    "InstanceNumber": _COUNT,
    "PatientOrientation": _directions,
    "Laterality": _one_of("R", "L"),
    "ImageLaterality": _one_of("R", "L", "U", "B"),
    "PhotometricInterpretation": _one_of("MONOCHROME1", "MONOCHROME2"),
    "PixelAspectRatio": _in(1, 1000, most=2),
    "PixelPaddingValue": _PIXEL,
    "PixelPaddingRangeLimit": _PIXEL,
    "PixelIntensityRelationship": _one_of("LIN", "LOG", "DISP", "OTHER"),
    "PixelIntensityRelationshipSign": _whole(-1, 1),
    "PresentationLUTShape": _one_of("IDENTITY", "INVERSE"),
    "RescaleIntercept": _in(-1e5, 1e5),
    "RescaleSlope": _in(-1e4, 1e4),
    "RescaleType": _one_of("US", "OD", "HU"),
    "WindowCenter": _GRAY,
    "WindowWidth": _GRAY,
    "VOILUTFunction": _one_of("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "LossyImageCompression": _one_of("00", "01"),
    "LossyImageCompressionRatio": _in(1, 1000, most=4),
    "LossyImageCompressionMethod": _one_of("ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15"),
    "ImagerPixelSpacing": _SPACING,
    "PixelSpacing": _SPACING,
    "PixelSpacingCalibrationType": _one_of("GEOMETRY", "FIDUCIAL"),
    "EstimatedRadiographicMagnificationFactor": _in(0.5, 10),
    "DetectorElementSpacing": _SPACING,
    "DetectorElementPhysicalSize": _SPACING,
    "DetectorType": _one_of("DIRECT", "SCINTILLATOR", "STORAGE", "FILM"),
    "DetectorConfiguration": _one_of("AREA", "SLOT"),
    "PositionerType": _one_of("CARM", "COLUMN", "MAMMOGRAPHIC", "PANORAMIC", "CEPHALOSTAT", "RIGID", "NONE"),
    "FieldOfViewShape": _one_of("RECTANGLE", "ROUND", "HEXAGONAL"),
    "FieldOfViewDimensions": _in(1, 2000, most=2),  # mm
    "FieldOfViewRotation": _in(0, 270),
    "FieldOfViewHorizontalFlip": _one_of("NO", "YES"),
    "FieldOfViewOrigin": _in(-20_000, 20_000, most=2),
    "KVP": _in(10, 300),
    "ExposureTime": _in(0, 10_000),  # ms
    "ExposureTimeInuS": _in(0, 1e7),
    "XRayTubeCurrent": _in(0, 2000),  # mA
    "XRayTubeCurrentInuA": _in(0, 2e6),
    "Exposure": _in(0, 2000),  # mAs
    "ExposureInuAs": _in(0, 2e6),
    "ExposureControlMode": _one_of("MANUAL", "AUTOMATIC"),
    "ExposureIndex": _INDEX,
    "TargetExposureIndex": _INDEX,
    "DeviationIndex": _in(-50, 50),
    "RelativeXRayExposure": _INDEX,
    "Sensitivity": _INDEX,
    "FocalSpots": _in(0.05, 5, most=2),  # mm
    "DistanceSourceToDetector": _DISTANCE,
    "DistanceSourceToPatient": _DISTANCE,
    "BodyPartThickness": _in(1, 1000),  # mm
    "Grid": _one_of("FIXED", "FOCUSED", "RECIPROCATING", "PARALLEL", "CROSSED", "NONE"),
    **{
        f"{kind}{edge}": _EDGE
        for kind in ("Shutter", "Collimator")
        for edge in ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
    },
    "ShutterShape": _one_of("RECTANGULAR", "CIRCULAR", "POLYGONAL"),
    "CollimatorShape": _one_of("RECTANGULAR", "CIRCULAR", "POLYGONAL"),
}
"""All that is taken over from a stranger's data set, and as what."""

_NEEDED = (
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer"),
    *("SeriesNumber", "InstanceNumber", "PatientOrientation", "KVP", "PositionerType", "DetectorType"),
)
"""Attributes of type 2 in CR and DX images (PS3.3 A.2 and A.26): there, if only empty."""
_REFERENCES = ("ReferencedImageSequence", "SourceImageSequence")


def _add(ds: Dataset, **elements: Any) -> None:
    for keyword, value in elements.items():
        setattr(ds, keyword, value)


def _add_kept(made: Dataset, ds: Dataset, kept: Mapping[str, Rule]) -> None:
    for keyword, rule in kept.items():
        value = None if _value(ds, keyword) is None else rule(_value(ds, keyword))
        if value is not None:
            setattr(made, keyword, value)


def _value(ds: Dataset, keyword: str) -> Any:
    """A stranger's value; None where it is missing, empty or cannot be read as what it says it is."""
    try:
        value = ds.get(keyword)
    except Exception:  # a stranger's bytes: decoding a value can raise anything
        return None
    return None if value in ("", b"") else value


def _add_patient(made: Dataset, ds: Dataset, name: str) -> None:
    """The Patient and Patient Study modules."""
    age = age_years(ds)
    _add(made, PatientName=name, PatientID=name, PatientBirthDate="", PatientSex=sex(ds))
    if age is not None:
        made.PatientAge = f"{age:03}Y"


def _add_times(made: Dataset, ds: Dataset, shift: timedelta) -> None:
    for event in _TIMED:
        date, time = text(ds, f"{event}Date"), text(ds, f"{event}Time")
        moment = _moment(date, time)
        if moment is not None:
            moved = moment + shift
            _add(made, **{f"{event}Date": f"{moved:%Y%m%d}"})
            _add(made, **{f"{event}Time": f"{moved:%H%M%S}" if time else ""})
    made.LongitudinalTemporalInformationModified = "MODIFIED"


def _moment(date: str, time: str) -> datetime | None:
    """A date (PS3.5 6.2, DA) and what can be read of a time (TM); None when it is no date."""
    digits = re.fullmatch(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)", date)
    clock = re.match(r"([01]\d|2[0-3]):?([0-5]\d)?:?([0-5]\d)?", time)
    try:
        day = [int(each) for each in digits.groups()] if digits else []
        hours = [int(each or 0) for each in clock.groups()] if clock else []
        moment = datetime(*day, *hours) if day else None  # type: ignore[arg-type]
    except ValueError:
        return None
    return moment if moment is not None and moment.year > 1 else None


def _add_uids(made: FileDataset, ds: Dataset, names: Pseudonyms) -> None:
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if uid := text(ds, keyword):
            setattr(made, keyword, names.uid(uid))
    for keyword in _REFERENCES:
        items = [_reference(item, names) for item in _items(ds, keyword)]
        if items:
            setattr(made, keyword, items)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _reference(item: Dataset, names: Pseudonyms) -> Dataset:
    """A reference (PS3.3 table 10-11) to what the standard has a class for; else to nothing known."""
    made = Dataset()
    sop_class = UID(text(item, "ReferencedSOPClassUID"))
    made.ReferencedSOPClassUID = sop_class if sop_class.type == "SOP Class" else ""
    made.ReferencedSOPInstanceUID = names.uid(text(item, "ReferencedSOPInstanceUID"))
    return made


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = _value(ds, keyword)
    return [item for item in _values(value) if isinstance(item, Dataset)]


def _add_view(made: Dataset, ds: Dataset) -> None:
    """A frontal chest, as it was found to be: the stranger's own codes and words may be anything."""
    view = view_of(ds)
    _add(made, BodyPartExamined="CHEST", AnatomicRegionSequence=[_code(CHEST.value, "SCT", CHEST.meaning)])
    _add(made, ViewPosition=view if view in (View.PA, View.AP) else "", AcquisitionContextSequence=[])
    if made.ViewPosition:
        code = VIEWS[made.ViewPosition]
        made.ViewCodeSequence = [_code(code.value, "SCT", code.meaning)]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    _add(item, CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
    return item


def _add_tables(made: Dataset, ds: Dataset, pixels: NDArray[np.uint16 | np.int16]) -> None:
    """The first table of each kind, as far as pixels use it: in other entries anything could be written."""
    used, values = np.unique(pixels.view(np.uint16)), radiograph.patterns_of(pixels)
    if table := radiograph.lut(ds, "ModalityLUTSequence", values):
        item = _table(table, values[used])
        _add_kept(item, ds.ModalityLUTSequence[0], {"ModalityLUTType": _one_of("US", "OD", "HU")})
        made.ModalityLUTSequence = [item]
    values = radiograph.modality(made, values)  # as whoever gets the image will have them
    if table := radiograph.lut(ds, "VOILUTSequence", values):
        made.VOILUTSequence = [_table(table, values[used])]


def _table(table: radiograph.Lut, values: NDArray[np.float64]) -> Dataset:
    """A LUT item (PS3.3 C.11.1.1) in which each entry that these values do not use is white."""
    entries, item = np.full_like(table.entries, table.white), Dataset()
    for each in (np.floor(values), np.ceil(values)):  # readers round in ways of their own
        used = table.places(each)
        entries[used] = table.entries[used]
    bits = table.bits if max(8, int(table.white).bit_length()) <= table.bits <= 16 else 16
    signed = table.first < 0 and entries.size < 2**15
    descriptor = [entries.size % 2**16, table.first if signed else table.first % 2**16, bits]
    item.add_new("LUTDescriptor", "SS" if signed else "US", descriptor)
    content = entries.astype("<u1" if bits == 8 else "<u2").tobytes()
    item.add_new("LUTData", "OW", content + bytes(len(content) % 2))
    return item


def _add_pixels(made: Dataset, pixels: NDArray[np.uint16 | np.int16], bits: int) -> None:
    signed, allocated = pixels.dtype.kind == "i", 8 if bits <= 8 else 16
    _add(made, SamplesPerPixel=1, BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1)
    _add(made, Rows=pixels.shape[0], Columns=pixels.shape[1], PixelRepresentation=int(signed))
    content = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    made.add_new("PixelData", "OW" if allocated == 16 else "OB", content + bytes(len(content) % 2))


def _add_method(made: Dataset) -> None:
    """What was done (PS3.15 E.1.1), in words and codes."""
    _add(made, BurnedInAnnotation="NO", PatientIdentityRemoved="YES")
    made.DeidentificationMethod = [f"Hilum {__version__}", *_METHOD.split("; ")]
    made.DeidentificationMethodCodeSequence = [_code(code, "DCM", of) for code, of in _METHOD_CODES.items()]
