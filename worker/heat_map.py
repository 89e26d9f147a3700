"""The heat map over its radiograph, with what was found beside it, as a Secondary Capture (PS3.3 A.8)."""

from datetime import datetime
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SecondaryCaptureImageStorage

from hilum.header import text
from hilum.uids import derived_uid
from worker.instance import in_zone_of, new_instance, reference
from worker.results import FINDING_CODES, NetworkName, ReadImage

LONGEST_SIDE = 1024
"""Pixels of the radiograph's longer side in the capture."""
SERIES_NUMBER = 9002
WARNING = "AI - not for diagnosis"

_PANEL_WIDTH = 336
_PANEL_MIN_HEIGHT = 640
_MARGIN = 24
_OPAQUE = 0.62  # of the colours where the heat is greatest: the radiograph shines through everywhere
_CONTOUR_AT = 0.5

_BLACK = (0, 0, 0)
_PANEL = (17, 20, 25)
_TRACK = (44, 50, 59)
_FAINT = (138, 147, 160)
_BRIGHT = (235, 238, 242)
_AMBER = (255, 179, 64)
_CONTOUR = (255, 226, 150)
_TICK = (160, 190, 215)

_COLOURS = np.array(
    [
        (24, 8, 66),
        (86, 16, 110),
        (150, 40, 100),
        (206, 68, 70),
        (240, 112, 33),
        (252, 168, 20),
        (250, 222, 90),
    ]
)
"""From cold to hot, each step lighter than the one before, so that it also reads in gray."""

Colour = tuple[int, int, int]


def heat_map_image(
    image: ReadImage,
    display: NDArray[np.uint8],
    heat: NDArray[np.float32],
    *,
    edition: str,
    network: NetworkName,
    created: datetime,
) -> Dataset:
    """Return the capture of an assessed image, 8-bit RGB, ready to be saved or sent.

    `display` is (H, W) uint8, bone white, oriented as the source image; `heat` is (h, w) float32 in [0, 1]
    over the central square of `display`, which is what the network saw. The radiograph is scaled to 1024
    pixels on its longer side; no word in the pixels says who the patient is. `edition` is its report's. The
    same arguments give the same bytes.
    """
    picture = with_heat(display, heat, _orientation(image.header))
    canvas = _with_panel(picture, image, network, created)
    with disable_value_validation():  # the source's UIDs are repeated as they are, valid or not
        capture = _capture(image.header, edition, created)
        _add_pixels(capture, canvas)
        return capture


def with_heat(
    display: NDArray[np.uint8], heat: NDArray[np.float32], orientation: tuple[str, ...] = ()
) -> Image.Image:
    """Return a radiograph with its heat map and the warning in its pixels, RGB, 1024 on its longer side.

    `orientation` is where its rows and columns point to, like ("L", "F"); () when that is unknown.
    """
    picture = _overlaid(display, heat)
    _draw_marks(ImageDraw.Draw(picture), picture, orientation)
    return picture


def _capture(header: Dataset, edition: str, created: datetime) -> Dataset:
    study_uid, uid = text(header, "StudyInstanceUID"), text(header, "SOPInstanceUID")
    ds = new_instance(
        header,
        sop_class_uid=SecondaryCaptureImageStorage,
        uid=derived_uid(study_uid, edition, uid, "sc"),
        series_uid=derived_uid(study_uid, edition, "sc", "series"),
        modality="OT",
        created=created,
    )
    ds.SeriesNumber = SERIES_NUMBER
    ds.SeriesDescription = f"Heat map: {WARNING}"
    ds.InstanceNumber = _instance_number(header)
    ds.BodyPartExamined = "CHEST"  # not one of a pair; a body part that may be would need Laterality
    ds.PatientOrientation = list(_orientation(header)) or ""
    ds.ConversionType = "WSD"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.BurnedInAnnotation = "YES"
    ds.DerivationDescription = "Grad-CAM heat map of the finding, over the radiograph, with its probabilities"
    ds.DerivationCodeSequence = [_code_item(codes.DCM.Saliency)]
    ds.SourceImageSequence = [_source(header)]
    _add_compression(ds, header)
    if text(header, "QualityControlImage") == "YES":
        ds.QualityControlImage = "YES"  # what was made of a phantom is one
    return ds


def _instance_number(header: Dataset) -> int:
    number = text(header, "InstanceNumber")
    return int(number) if number.isdecimal() and len(number) < 10 else 1


def _orientation(header: Dataset) -> tuple[str, ...]:
    """Return where the rows and the columns point to, like ("L", "F"); () when the header does not say."""
    rows, _, columns = text(header, "PatientOrientation").partition("\\")
    valid = all(way and set(way) <= set("LRAPHF") and len(way) <= 3 for way in (rows, columns))
    return (rows, columns) if valid else ()


def _code_item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, "DCM", code.meaning
    return item


def _source(header: Dataset) -> Dataset:
    item = reference(header)
    item.PurposeOfReferenceCodeSequence = [_code_item(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def _add_compression(ds: Dataset, header: Dataset) -> None:
    """Say whether the source had lost something; what is made of it has too (PS3.3 C.7.6.1.1.5)."""
    lossy = text(header, "LossyImageCompression") == "01"
    ds.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if lossy and (value := text(header, keyword)):
            setattr(ds, keyword, value)


def _add_pixels(ds: Dataset, canvas: Image.Image) -> None:
    ds.SamplesPerPixel = 3
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = canvas.height, canvas.width
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelRepresentation = 0
    pixels = canvas.tobytes()
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)


def _overlaid(display: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    """Return the radiograph at its size in the capture, RGB, coloured by heat inside its central square."""
    scale = LONGEST_SIDE / max(display.shape)
    height, width = (max(1, round(side * scale)) for side in display.shape)
    picture = Image.fromarray(display).resize((width, height), Image.Resampling.LANCZOS).convert("RGB")
    side = min(height, width)
    corner = ((width - side) // 2, (height - side) // 2)
    levels = _levels(heat, side)
    colours = Image.fromarray(_palette()[levels])
    picture.paste(colours, corner, Image.fromarray(_opacity()[levels]))
    picture.paste(_CONTOUR, corner, Image.fromarray(_contour(levels)))
    _draw_corners(ImageDraw.Draw(picture), *corner, side)
    return picture


def _levels(heat: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Return the heat in 256 levels, (side, side); each cell lies over its own part of the square."""
    smooth = Image.fromarray(heat).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(smooth) * 255.0 + 0.5, 0, 255).astype(np.uint8)


@cache
def _palette() -> NDArray[np.uint8]:
    at = np.linspace(0, 255, len(_COLOURS))
    channels = [np.interp(np.arange(256), at, _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


@cache
def _opacity() -> NDArray[np.uint8]:
    """Return the opacity of each level: none below 0.1, then rising smoothly to `_OPAQUE`."""
    ramp = np.clip((np.arange(256) / 255 - 0.1) / 0.8, 0, 1)
    return (255 * _OPAQUE * ramp * ramp * (3 - 2 * ramp)).round().astype(np.uint8)


def _contour(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask, 0 or 150, of the line along which the heat passes `_CONTOUR_AT`."""
    hot = levels > 255 * _CONTOUR_AT
    line = np.zeros(levels.shape, dtype=np.uint8)
    line[:-1] |= hot[:-1] ^ hot[1:]
    line[:, :-1] |= hot[:, :-1] ^ hot[:, 1:]
    line[1:] |= line[:-1]
    return line * np.uint8(150)


def _draw_corners(draw: ImageDraw.ImageDraw, left: int, top: int, side: int) -> None:
    """Mark the corners of the square that the network saw."""
    length, inset = side // 24, 3
    for x, inward_x in ((left + inset, 1), (left + side - 1 - inset, -1)):
        for y, inward_y in ((top + inset, 1), (top + side - 1 - inset, -1)):
            draw.line(((x + inward_x * length, y), (x, y), (x, y + inward_y * length)), fill=_TICK, width=2)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _with_panel(
    picture: Image.Image, image: ReadImage, network: NetworkName, created: datetime
) -> Image.Image:
    height = max(picture.height, _PANEL_MIN_HEIGHT)
    canvas = Image.new("RGB", (picture.width + _PANEL_WIDTH, height), _BLACK)
    canvas.paste(picture, (0, (height - picture.height) // 2))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((picture.width, 0, canvas.width, height), fill=_PANEL)
    left, right = picture.width + _MARGIN, canvas.width - _MARGIN
    bottom = _draw_finding(draw, left, right, image)
    _draw_scale(draw, left, right, bottom, image)
    _draw_origin(draw, left, right, height, image, network, created)
    return canvas


def _draw_marks(draw: ImageDraw.ImageDraw, picture: Image.Image, orientation: tuple[str, ...]) -> None:
    """Write the warning into the radiograph itself, which outlives the panel, and its sides where known."""
    margin = 14
    middle = (picture.width // 2, picture.height - margin)
    draw.text(middle, WARNING, _AMBER, _font(22), anchor="mb", stroke_width=3, stroke_fill=_BLACK)
    opposite = str.maketrans("LRAPHF", "RLPAFH")
    for mark in orientation[:1]:
        for x, letters, anchor in (
            (margin, mark.translate(opposite), "lm"),
            (picture.width - margin, mark, "rm"),
        ):
            place = (x, picture.height // 2)
            draw.text(place, letters, _BRIGHT, _font(26), anchor, stroke_width=2, stroke_fill=_BLACK)


def _draw_finding(draw: ImageDraw.ImageDraw, left: int, right: int, image: ReadImage) -> int:
    """Draw what was found and a bar per label; return where the next part may begin."""
    draw.text((left, 24), "HILUM", _FAINT, _font(16))
    draw.text((right, 24), image.view, _FAINT, _font(16), anchor="ra")
    _draw_fitting(draw, (left, 56), _name(image.label), right - left, 34)
    y = 124
    for label, probability in (image.probabilities or {}).items():
        _draw_bar(draw, (left, y, right), label, probability, chosen=label == image.label)
        y += 54
    return y


def _name(label: str | None) -> str:
    return "" if label is None else FINDING_CODES[label].meaning


def _draw_bar(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int], label: str, probability: float, *, chosen: bool
) -> None:
    left, y, right = place
    ink = _BRIGHT if chosen else _FAINT
    draw.text((left, y), _name(label), ink, _font(18))
    draw.text((right, y), f"{100 * probability:.0f} %", ink, _font(18), anchor="ra")
    top, filled = y + 28, round((right - left) * min(max(probability, 0.0), 1.0))
    draw.rounded_rectangle((left, top, right, top + 8), 4, fill=_TRACK)
    if filled >= 8:
        draw.rounded_rectangle((left, top, left + filled, top + 8), 4, fill=_AMBER if chosen else _FAINT)


def _draw_scale(draw: ImageDraw.ImageDraw, left: int, right: int, top: int, image: ReadImage) -> None:
    draw.text((left, top + 22), "What spoke for this finding", _BRIGHT, _font(16))
    y, palette = top + 52, _palette()
    for x in range(left, right):
        colour: Colour = tuple(palette[(x - left) * 255 // (right - left - 1)].tolist())
        draw.line(((x, y), (x, y + 12)), fill=colour)
    draw.text((left, y + 20), "little", _FAINT, _font(14))
    draw.text((right, y + 20), "much", _FAINT, _font(14), anchor="ra")
    draw.text((left, y + 46), "Line: half as much. Corners: what was read", _FAINT, _font(14))
    if image.ood is not None:
        draw.text((left, y + 70), f"Out-of-distribution score {image.ood:.2f}", _FAINT, _font(14))


def _draw_origin(
    draw: ImageDraw.ImageDraw,
    left: int,
    right: int,
    height: int,
    image: ReadImage,
    network: NetworkName,
    created: datetime,
) -> None:
    box = (left, height - 92, right, height - 24)
    lines = (
        f"Network {network.version}",
        f"sha256 {network.digest[:12]}",
        f"{in_zone_of(image.header, created):%Y-%m-%d %H:%M}",
    )
    for number, line in enumerate(lines):
        _draw_fitting(draw, (left, box[1] - 82 + 22 * number), line, right - left, 14, _FAINT)
    draw.rounded_rectangle(box, 6, outline=_AMBER, width=2)
    middle = (left + right) // 2
    draw.text((middle, box[1] + 24), WARNING, _AMBER, _font(20), anchor="mm")
    draw.text((middle, box[1] + 49), "not a medical device", _AMBER, _font(14), anchor="mm")


def _draw_fitting(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], line: str, width: int, size: int, ink: Colour = _BRIGHT
) -> None:
    """Write one line, smaller where it would not fit."""
    while size > 8 and draw.textlength(line, _font(size)) > width:
        size -= 1
    draw.text(at, line, ink, _font(size))
