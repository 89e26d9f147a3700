"""Phantom radiographs: chests that nobody has, for demonstrations, tests, training and constancy checks.

`python -m hilum.phantom FILE` draws two of each label, side by side, into a PNG.
"""

from datetime import datetime, timedelta
from sys import argv
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from hilum.anatomy import (
    FINEST_ROWS,
    HEIGHT_CM,
    LABELS,
    PER_CM_BONE,
    PER_CM_WATER,
    Field,
    Grid,
    airway,
    bones,
    bowel_gas,
    joined,
    lung,
    mediastinum,
    patient,
    rod,
    soft_tissue,
    vessels,
)
from hilum.lesions import lost_air
from hilum.uids import derived_uid

__all__ = ["DRAWING", "LABELS", "PATIENT_ID_PREFIX", "draw", "is_phantom", "phantom"]

DRAWING = "2"
"""Version of what `draw` draws: other pixels under an old UID would be taken for a copy."""
PATIENT_ID_PREFIX = "HILUM-PHANTOM-"
PRIVATE_GROUP, PRIVATE_CREATOR = 0x0099, "HILUM"
"""Our private block: element 01 says YES to being a phantom, 02 its label, 03 its seed."""
CHEST = Code("816094009", "SCT", "Chest")
VIEWS = {
    "PA": Code("272479007", "SCT", "postero-anterior"),
    "AP": Code("399348003", "SCT", "antero-posterior"),
    "LL": Code("399173006", "SCT", "left lateral"),
}
"""Codes of the view by View Position (0018,5101), PS3.16 CID 4010."""
STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 2)], [(0, 2), (1.2, 2)]],
    "R": [[(0, 0), (0, 2)], [(0, 0), (1.9, 0), (1.9, 1), (0, 1)], [(0.4, 1), (1.3, 2)]],
}
"""The two lead letters, 2 high."""
SHOWN = (40, 60)
"""First seeds of the two rows of `sheet`."""


def draw(seed: int, label: str, *, rows: int = 2500, columns: int = 2048) -> NDArray[np.float32]:
    """Return a frontal chest radiograph as a reader would see it, bone white.

    The seed alone decides about the patient, the position and the exposure, so that the same seed
    with another label differs by the lesion only.

    Returns
    -------
    (rows, columns) float32 in [0, 1], where 0 is black. The same picture at every size, softer
    where it is small.

    Raises
    ------
    ValueError
        If the label is none of `LABELS`, or the seed is negative.
    """
    if label not in LABELS:
        raise ValueError(f"no phantom can show {label!r}: choose one of {', '.join(LABELS)}")
    fine = min(rows, FINEST_ROWS)
    grid = Grid(fine, max(round(columns * fine / rows), 1), patient(_random(seed, "patient")))
    exposed = _exposed(grid, seed, label)
    if fine < rows:
        exposed = _resized(exposed, rows, columns)
    return _developed(exposed, _random(seed, "exposure"), _random(seed, "noise"))


def _random(seed: int, purpose: str) -> Generator:
    """A stream of its own for each purpose: what one part draws never shifts another."""
    return np.random.default_rng([seed, *purpose.encode()])


def _resized(field: Field, rows: int, columns: int) -> Field:
    return np.asarray(
        Image.fromarray(field).resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32
    )


def _attenuation(grid: Grid, seed: int, label: str) -> Field:
    """Sum of attenuation x thickness along each ray (no unit)."""
    rng = _random(seed, "tissue")
    lungs = (lung(grid, -1), lung(grid, 1))
    heart = mediastinum(grid)
    tree = vessels(grid, rng)
    air = np.maximum(lungs[0].depth + lungs[1].depth - heart, 0)
    lost = lost_air(grid, lungs, label, _random(seed, f"lesion {label}"))
    if lost is not None:
        air *= 1 - lost
        tree *= 1 - 1.5 * lost
    markings = 1 + 0.02 * grid.texture(rng, 1.2) + rng.uniform(0.01, 0.035) * grid.texture(rng, 0.4)
    body = soft_tissue(grid)
    gas = 0.76 * air * markings + np.minimum(airway(grid), 1.8) + bowel_gas(grid, rng)
    water = (
        np.maximum(body - gas, 0) + 1.25 * tree * _filled(air) + 0.25 * grid.texture(rng, 2.5) * (body > 0)
    )
    return PER_CM_WATER * water + PER_CM_BONE * bones(grid) * (body > 0.1)


def _filled(air: Field) -> Field:
    return np.clip(air / 3, 0, 1)


def _exposed(grid: Grid, seed: int, label: str) -> Field:
    """What reaches the detector, as the negative logarithm of the open beam's share; scatter included."""
    rng = _random(seed, "scatter")
    primary = np.exp(-(_attenuation(grid, seed, label) + _marker(grid, _random(seed, "marker"))))
    scatter = _coarse(primary, 24) * rng.uniform(0.15, 0.6)
    exposed: Field = -np.log(primary + scatter + 1e-4)
    return exposed


def _coarse(field: Field, count: int) -> Field:
    """The field as only `count` rows would show it."""
    rows, columns = field.shape
    small = Image.fromarray(field).resize(
        (max(round(count * columns / rows), 2), count), Image.Resampling.BOX
    )
    return np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32).clip(0)


def _developed(exposed: Field, rng: Generator, noise: Generator) -> Field:
    """The detector's noise, then contrast and brightness as a manufacturer's processing sets them."""
    quanta = rng.uniform(0.006, 0.03)
    rows = exposed.shape[0]
    grain = noise.standard_normal(exposed.shape, dtype=np.float32)
    exposed = exposed + grain * np.exp(exposed * 0.5) * (quanta * min(1, (rows / 1600) ** 0.5))
    exposed -= rng.uniform(0.1, 0.5) * (_coarse(exposed, 9) - 2)
    low, high = rng.uniform(0.5, 1.2), rng.uniform(3.4, 4.3)
    tone = (exposed - ((low + high) / 2)) * (rng.uniform(3.4, 5.2) / (high - low))
    image = 1 / (1 + np.exp(-tone))
    return np.clip(_collimated(image, rng), 0, 1).astype(np.float32)


def _collimated(image: Field, rng: Generator) -> Field:
    """The image behind the collimator's leaves, blackened as manufacturers do."""
    rows, columns = image.shape
    for axis in range(4):
        width, closed = rng.uniform(0.01, 0.06), rng.random() < 0.3
        if not closed:
            continue
        size = rows if axis < 2 else columns
        ramp = np.clip((np.arange(size, dtype=np.float32) / size - width) * 300 + 1, 0.02, 1)
        ramp = ramp if axis % 2 else ramp[::-1]
        image = image * (ramp[:, None] if axis < 2 else ramp[None, :])
    return image


def _marker(grid: Grid, rng: Generator) -> Field:
    """Attenuation of the lead letter L or R, laid on the detector by the radiographer."""
    size, letter = rng.uniform(0.7, 1.3), "LR"[int(rng.integers(2))]
    x, y = (14.0 if letter == "L" else -14.5) + rng.normal(0, 0.8), -17.5 + rng.normal(0, 1.5)
    strokes = [[(x + a * size, y + b * size) for a, b in stroke] for stroke in STROKES[letter]]
    rods = [rod(grid, stroke, 0.14, 0.1, 0.3) for stroke in strokes]
    lead = grid.blur([(grid.splat(*joined(rods)), 0.03)])
    return np.minimum(lead * 6, 3)


def phantom(
    seed: int,
    label: str,
    *,
    transfer_syntax_uid: UID = ExplicitVRLittleEndian,
    photometric_interpretation: str = "MONOCHROME2",
    rows: int = 2500,
    columns: int = 2048,
    study_uid: str | None = None,
    view_position: str = "PA",
) -> FileDataset:
    """Return a phantom as a hospital's DX room would send it, ready for `save_as(enforce_file_format=True)`.

    Digital X-Ray Image Storage - For Presentation (PS3.3 A.26), 12 bits stored in 16, whose VOI window
    shows what `draw` returns. MONOCHROME1 stores bone as low values. The same arguments
    give the same bytes; without `study_uid` every phantom is a study of its own.

    Raises
    ------
    ValueError
        If label, view position or photometric interpretation is unknown here, or the seed is negative.
    """
    if view_position not in VIEWS:
        raise ValueError(f"no phantom has the view {view_position!r}: choose one of {', '.join(VIEWS)}")
    if photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"a phantom is MONOCHROME1 or MONOCHROME2, not {photometric_interpretation!r}")
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    _add_pixels(ds, draw(seed, label, rows=rows, columns=columns), photometric_interpretation, seed)
    what = (
        DRAWING,
        str(seed),
        label,
        transfer_syntax_uid,
        photometric_interpretation,
        f"{rows}x{columns}",
        view_position,
    )
    ds.StudyInstanceUID = study_uid or derived_uid("phantom study", *what)
    ds.SeriesInstanceUID = derived_uid("phantom series", ds.StudyInstanceUID, *what)
    ds.SOPInstanceUID = derived_uid("phantom", ds.StudyInstanceUID, *what)
    _add_patient(ds, seed)
    _add_acquisition(ds, seed, view_position)
    _add_origin(ds, seed, label)
    return _encoded(ds, transfer_syntax_uid)


def _add(ds: Dataset, **elements: Any) -> None:
    for keyword, value in elements.items():
        setattr(ds, keyword, value)


def _add_pixels(ds: Dataset, image: Field, photometric_interpretation: str, seed: int) -> None:
    rng = _random(seed, "window")
    low, high = int(rng.integers(0, 400)), int(rng.integers(3300, 4096))
    stored = np.round(low + image * (high - low)).astype("<u2")
    inverse = photometric_interpretation == "MONOCHROME1"
    if inverse:
        stored, low, high = 4095 - stored, 4095 - high, 4095 - low
    _add(
        ds,
        SamplesPerPixel=1,
        PhotometricInterpretation=photometric_interpretation,
        Rows=image.shape[0],
        Columns=image.shape[1],
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        PixelData=stored.astype("<u2").tobytes(),
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=1 if inverse else -1,
        RescaleIntercept=0,
        RescaleSlope=1,
        RescaleType="US",
        PresentationLUTShape="INVERSE" if inverse else "IDENTITY",
        WindowCenter=(low + high + 1)
        / 2,  # the LINEAR function of PS3.3 C.11.2.1.2.1: low is black, high is white
        WindowWidth=high - low + 1,
        ImagerPixelSpacing=[round(10 * HEIGHT_CM / image.shape[0], 6)] * 2,
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
    )


def _add_patient(ds: Dataset, seed: int) -> None:
    who = patient(_random(seed, "patient"))
    taken = datetime(2024, 1, 1, 7) + timedelta(days=seed % 500, minutes=seed * 7 % 720)
    _add(
        ds,
        PatientName=f"Phantom^Seed {seed}",
        PatientID=f"{PATIENT_ID_PREFIX}{seed:06d}",
        PatientBirthDate=f"{taken.year - who.age}0101",
        PatientSex=who.sex,
        PatientAge=f"{who.age:03d}Y",
        StudyID=str(seed),
        AccessionNumber=f"P{seed:06d}",
        ReferringPhysicianName="",
        StudyDescription="Chest",
    )
    for event in ("Study", "Series", "Acquisition", "Content"):
        _add(ds, **{f"{event}Date": taken.strftime("%Y%m%d"), f"{event}Time": taken.strftime("%H%M%S")})


def _add_acquisition(ds: Dataset, seed: int, view_position: str) -> None:
    rng = _random(seed, "generator")
    _add(
        ds,
        Modality="DX",
        SeriesNumber=1,
        InstanceNumber=1,
        SeriesDescription=f"Chest {view_position}",
        ImageType=["ORIGINAL", "PRIMARY"],
        PresentationIntentType="FOR PRESENTATION",
        BodyPartExamined="CHEST",
        AnatomicRegionSequence=[_item(CHEST)],
        ImageLaterality="U",
        ViewPosition=view_position,
        ViewCodeSequence=[_item(VIEWS[view_position])],
        PatientOrientation=["A", "F"] if view_position == "LL" else ["L", "F"],
        AcquisitionContextSequence=[],
        PositionerType="COLUMN",
        DetectorType="SCINTILLATOR",
        DetectorConfiguration="AREA",
        KVP=int(rng.integers(100, 130)),
        ExposureTime=int(rng.integers(4, 20)),
        XRayTubeCurrent=int(rng.integers(200, 400)),
        DistanceSourceToDetector=1800 if view_position != "AP" else 1100,
        Grid="FIXED",
    )


def _item(code: Code) -> Dataset:
    item = Dataset()
    _add(item, CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)
    return item


def _add_origin(ds: Dataset, seed: int, label: str) -> None:
    """Say, by the standard's attribute and by ours, that nobody stood before this detector."""
    _add(
        ds,
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=DigitalXRayImageStorageForPresentation,
        Manufacturer="Hilum",
        ManufacturerModelName="Phantom",
        DeviceSerialNumber="1",
        SoftwareVersions=DRAWING,
        QualityControlImage="YES",
    )
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "CS", "YES")
    block.add_new(0x02, "LO", label)
    block.add_new(0x03, "LO", str(seed))


def _encoded(ds: FileDataset, transfer_syntax_uid: UID) -> FileDataset:
    meta = ds.file_meta
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if transfer_syntax_uid.is_compressed:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(transfer_syntax_uid, generate_instance_uid=False)
    else:
        meta.TransferSyntaxUID = transfer_syntax_uid
        ds["PixelData"].VR = "OW"
    return ds


def is_phantom(ds: Dataset) -> bool:
    """Whether an instance is one of ours.

    The patient's id decides, with the private tag or, where a PACS took that away, Quality Control Image
    (0028,0300) beside it: a real patient must never vanish from the worklist by one wrong attribute.
    """
    ours = str(ds.get("PatientID", "")).startswith(PATIENT_ID_PREFIX)
    return ours and (_says_phantom(ds) or ds.get("QualityControlImage") == "YES")


def _says_phantom(ds: Dataset) -> bool:
    try:
        value = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x01].value
    except KeyError:
        return False
    return value in ("YES", b"YES ")  # bytes where Implicit VR left the type unknown


def sheet() -> Image.Image:
    """Two phantoms of each label, a label a column, 1,200 pixels wide."""
    rows = [
        [draw(seed + k, label, rows=732, columns=600) for k, label in enumerate(LABELS)] for seed in SHOWN
    ]
    half = np.asarray(Image.fromarray(np.block(rows)).reduce(2))
    return Image.fromarray(np.round(half * 63).astype(np.uint8) * 4)  # 64 grays keep the file small


if __name__ == "__main__":
    sheet().save(argv[1], optimize=True)
