"""Pixels: from a DICOM data set to what a reader sees and to what the network gets.

Training and inference both come through `network_input`, so that they cannot drift apart.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from hilum.errors import NotARadiograph, Undecodable

PREPROCESSING = "square-224-v1"
"""Name of what `network_input` does; a finding is kept with it, and a change of it is a new name."""
INPUT_SIZE = 224

MOST_PIXELS = 100_000_000
"""A picture that claims more is not decoded."""

_SAMPLES = Path(__file__).parent / "samples"
_LEAST_KEPT = 1 / 3  # a crop that leaves less of a side is a wrong attribute or an unusual image: not done
_BLACK, _WHITE = 8, 253  # collimated edges are dark but noisy; whites near saturation may be a belly
_BLANK_SHARE = 0.995  # of a line's pixels black, or white: the line lies outside the X-ray field

Values = NDArray[np.float64]


def network_input(display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the network's input, (224, 224) uint8, of a display image (H, W) with bone white.

    The central square is cut out, never padded and never stretched: the shape of a radiograph tells
    its source, and a network would learn that. Gray values are stretched between the
    1st and the 99th percentile.
    """
    side = min(display.shape)
    top, left = (display.shape[0] - side) // 2, (display.shape[1] - side) // 2
    square = Image.fromarray(display[top : top + side, left : left + side])
    small = np.asarray(square.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BOX), dtype=np.float32)
    low, high = np.percentile(small, (1, 99))
    stretched: NDArray[np.float32] = (small - low) * (255.0 / max(high - low, 1.0))
    return np.clip(stretched.round(), 0, 255).astype(np.uint8)


def to_display(ds: Dataset) -> NDArray[np.uint8]:
    """Return a CR or DX instance's image as a reader would see it: uint8, 0 is black, bone is white.

    (Rows, Columns), or less where the rectangular shutter or collimator, or blank borders, are cut off.
    Modality LUT, VOI LUT (the first of several; without any, gray values are stretched between
    the 0.5th and the 99.5th percentile) and Presentation LUT Shape are applied. MONOCHROME1 and the shape
    INVERSE say the same thing (PS3.3 C.8.11.3), so the image is turned over once even when both are
    there. Pixel padding is black.

    Raises
    ------
    NotARadiograph
        If the image is in colour, has more than one frame, or has no pixels of 1 to 16 bits.
    Undecodable
        If the pixels cannot be read.
    """
    stored = _within_shutter(ds, stored_values(ds))
    try:
        table = _gray_table(ds, stored)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise Undecodable(f"the gray scale attributes are broken: {error}") from error
    display: NDArray[np.uint8] = table[stored.view(np.uint16)]
    return without_blank_borders(display)


def picture(file: Path | BinaryIO) -> NDArray[np.uint8]:
    """Return a JPEG or PNG picture of a radiograph: (H, W) uint8, 0 is black, borders included.

    Colour becomes gray. Of 16 bits, gray values are stretched between the 0.5th and the 99.5th
    percentile, because nothing says what is black and white among them.

    Raises
    ------
    Undecodable
        If the file is no picture of these kinds, is broken, or has more than `MOST_PIXELS` pixels.
    """
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            return _gray(image)
    except (MemoryError, Undecodable):
        raise
    except Exception as error:  # the border with whoever made the file: Pillow raises anything
        raise Undecodable(f"it is no picture that can be read: {error}") from error


def _gray(image: Image.Image) -> NDArray[np.uint8]:
    if image.width * image.height > MOST_PIXELS:
        raise Undecodable(f"it has more than {MOST_PIXELS:,} pixels")
    if image.mode[:1] not in ("I", "F"):
        return np.asarray(image.convert("L"))
    values = np.asarray(image).astype(np.float64)
    gray: NDArray[np.uint8] = (_stretched(values, values[::3, ::3]) * 255).round().astype(np.uint8)
    return gray


def without_blank_borders(display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a display image without the rows and columns at its edges that are black, or white, throughout.

    They lie outside the X-ray field. Nothing is cut when less than a third of a side would stay.
    """
    rows = display[_between_blank(display)]
    columns = rows.T[_between_blank(rows.T)].T
    return np.ascontiguousarray(columns)


def stored_values(ds: Dataset) -> NDArray[np.uint16 | np.int16]:
    """Return the decoded pixels, (Rows, Columns), as stored: int16 or uint16 by Pixel Representation.

    Bits above Bits Stored, where old files keep overlays, are removed, whatever the transfer syntax. Raises
    as `to_display` does.
    """
    _require_gray(ds)
    try:
        decoded = ds.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # the border with whoever made the file: decoders raise anything
        raise Undecodable(f"the pixels cannot be decoded: {error}") from error
    if decoded.ndim != 2:
        raise Undecodable(f"the pixels decode to {decoded.ndim} dimensions, not to rows and columns")
    native = not ds.file_meta.TransferSyntaxUID.is_encapsulated
    if native and _number(ds, "HighBit") not in (ds.BitsStored - 1, None):
        raise Undecodable("its High Bit is not Bits Stored less one, as PS3.5 8.1.1 demands")
    signed = ds.get("PixelRepresentation") == 1
    stored = np.ascontiguousarray(decoded, dtype=np.int16 if signed else np.uint16)
    above = 16 - int(ds.BitsStored)
    return (stored << above) >> above  # decoders of JPEG-LS and JPEG 2000 leave them in; keeps the sign


def pixel_hash(ds: Dataset) -> str:
    """Return the SHA-256, in hex, of the stored values and their shape.

    The same image in another lossless transfer syntax has the same hash. Raises as `to_display` does.
    """
    stored = stored_values(ds)
    digest = hashlib.sha256(f"{stored.shape[0]}x{stored.shape[1]} {stored.dtype.kind}16 ".encode())
    digest.update(stored.astype(stored.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def looks_like_a_frontal_chest(display: NDArray[np.uint8]) -> str | None:
    """Return None, or why these pixels cannot be a frontal chest radiograph.

    Only what no chest radiograph can be is refused: too small, a strip, empty, or of few gray levels.
    Whether it shows a chest at all is for the header and the network's out-of-distribution score.
    """
    shortest, longest = sorted(display.shape)
    if shortest < 64:
        return f"the image is only {shortest} pixels wide or high"
    if longest > 2.5 * shortest:
        return "the image is a strip, not a chest radiograph"
    levels = np.bincount(display.ravel(), minlength=256)
    if levels.max() > 0.9 * display.size:
        return "the image is empty"
    if np.count_nonzero(levels) < 16:
        return "the image has too few gray levels"
    return None


def decodable_transfer_syntaxes() -> list[UID]:
    """Return the transfer syntaxes this machine decodes, each proven by decoding a sample now.

    JPEG Extended is never among them: its 12-bit form has no decoder here, and a sender would not
    tell which form it sends. Video never is.
    """
    proven = (_proven_by(path) for path in sorted(_SAMPLES.glob("*.dcm")))
    return [uid for uid in proven if uid is not None]


def _proven_by(sample: Path) -> UID | None:
    """The sample's transfer syntax, when it decodes to the ramp that it was made from."""
    ds = dcmread(sample)
    ramp = np.arange(1024).reshape(32, 32) * 4 >> (12 - ds.BitsStored)
    try:
        decoded = stored_values(ds)
    except Undecodable:
        return None
    return ds.file_meta.TransferSyntaxUID if np.abs(decoded - ramp).max() <= 2 else None


def _require_gray(ds: Dataset) -> None:
    """Raise unless this is one gray frame of at most 16 bits."""
    photometric = ds.get("PhotometricInterpretation", "")
    if ds.get("SamplesPerPixel", 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotARadiograph(f"the image is in colour ({photometric or 'of an unknown kind'})")
    if (_number(ds, "NumberOfFrames") or 1) > 1:
        raise NotARadiograph("the image has more than one frame")
    if "PixelData" not in ds:
        raise NotARadiograph("the object has no integer pixels")
    bits = _number(ds, "BitsStored") or 0
    if not 1 <= bits <= 16:
        raise NotARadiograph(f"its pixels have {bits:g} bits: 1 to 16 are read")


def _gray_table(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """The gray value, bone white, of each of the 65,536 patterns a stored value can have.

    All gray scale steps work on this table: the image itself is looked up once.
    """
    patterns = patterns_of(stored)
    padding = _is_padding(ds, patterns)
    values = modality(ds, patterns)
    gray = _voi(ds, values)
    if gray is None:
        some = stored[::3, ::3].view(np.uint16)
        gray = _stretched(values, values[some[~padding[some]]])
    if ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE":
        gray = 1 - gray
    gray[padding] = 0
    return (gray * 255).round().astype(np.uint8)


def patterns_of(stored: NDArray[Any]) -> Values:
    """Return the 65,536 values that a pixel of this kind can have, in the order of their bits."""
    return np.arange(2**16, dtype=np.uint16).view(stored.dtype).astype(np.float64)


def _is_padding(ds: Dataset, values: Values) -> NDArray[np.bool_]:
    """Which stored values are padding: the Pixel Padding Value, or up to its limit (PS3.3 C.7.5.1.1.2)."""
    value = _number(ds, "PixelPaddingValue")
    if value is None:
        return np.zeros(values.shape, dtype=np.bool_)
    limit = _number(ds, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return (values >= low) & (values <= high)


def modality(ds: Dataset, values: Values) -> Values:
    """Return stored values after Modality LUT, else Rescale Slope and Intercept (PS3.3 C.11.1)."""
    table = lut(ds, "ModalityLUTSequence", values)
    if table is not None:
        return table.look_up(values)
    slope = _number(ds, "RescaleSlope") or 1.0
    return values * slope + (_number(ds, "RescaleIntercept") or 0.0)


def _voi(ds: Dataset, values: Values) -> Values | None:
    """The first VOI LUT, else the first window (PS3.3 C.11.2), as 0 to 1; None when neither is usable."""
    table = lut(ds, "VOILUTSequence", values)
    if table is not None:
        return table.look_up(values) / table.white
    centre, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    if centre is None or width is None or width <= 0:
        return None
    return _windowed(values, centre, width, str(ds.get("VOILUTFunction") or "LINEAR"))


def _windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """Values through a window, 0 to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        steepness = np.clip(-4 * (values - centre) / width, -500, 500)  # exp stays finite
        return 1 / (1 + np.exp(steepness))
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class Lut:
    """A LUT item (PS3.3 C.11.1.1): the first value that is mapped, and what each from there on becomes."""

    first: int
    entries: Values
    bits: int
    """Of an entry, as the item states them."""

    def places(self, values: Values) -> NDArray[np.intp]:
        """Which of the entries each value uses."""
        places: NDArray[np.intp] = np.clip(np.rint(values) - self.first, 0, self.entries.size - 1).astype(
            np.intp
        )
        return places

    def look_up(self, values: Values) -> Values:
        looked_up: Values = self.entries[self.places(values)]
        return looked_up

    @property
    def white(self) -> float:
        """The top of the output range, 2^n - 1 (PS3.3 C.11.2.1.1).

        n is as many bits as the largest entry needs: some files state more, and would be shown dark.
        """
        return 2.0 ** max(1, int(self.entries.max()).bit_length()) - 1


def lut(ds: Dataset, keyword: str, values: Values) -> Lut | None:
    """Return a sequence's first item, for these values; None when it is missing or shorter than it says."""
    item = ds[keyword].value[0] if ds.get(keyword) else Dataset()
    if item.get("LUTDescriptor") is None or item.get("LUTData") is None:
        return None
    length, first, bits = (int(number) for number in item.LUTDescriptor)
    length = length or 2**16
    if first > 0x7FFF and values.min() < 0:
        first -= 2**16  # signed pixels, with a descriptor that was read as unsigned
    entries = _lut_entries(ds, item.LUTData, length)
    return None if entries.size < length else Lut(first, entries[:length], bits)


def _lut_entries(ds: Dataset, data: Any, length: int) -> Values:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.float64))
    if len(data) in (length, length + 1):  # two 8-bit entries a word
        return np.frombuffer(data, dtype=np.uint8).astype(np.float64)
    order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], dtype=f"{order}u2").astype(np.float64)


def _stretched(values: Values, shown: Values) -> Values:
    """Values as 0 to 1, so that all but the outermost half percent of those shown are told apart."""
    low, high = np.percentile(shown, (0.5, 99.5)) if shown.size else (0.0, 1.0)
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def _number(ds: Dataset, keyword: str) -> float | None:
    """The first value as a finite number, else None: a broken one counts as missing."""
    try:
        value = ds.get(keyword)
        number = float(value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _within_shutter(ds: Dataset, stored: NDArray[Any]) -> NDArray[Any]:
    """The pixels inside the rectangular shutter (PS3.3 C.7.6.11), else the collimator (C.8.7.3).

    All pixels, when neither is credible: edges count columns and rows from 1, but some vendors
    write millimetres, so edges outside the image, or far inside, are not believed.
    """
    rows, columns = stored.shape
    for kind in ("Shutter", "Collimator"):
        if "RECTANGULAR" not in (ds.get(f"{kind}Shape") or ""):
            continue
        left, right = _number(ds, f"{kind}LeftVerticalEdge"), _number(ds, f"{kind}RightVerticalEdge")
        top, bottom = _number(ds, f"{kind}UpperHorizontalEdge"), _number(ds, f"{kind}LowerHorizontalEdge")
        across, down = _credible(left, right, columns), _credible(top, bottom, rows)
        if across and down:
            return np.ascontiguousarray(stored[down, across])
    return stored


def _credible(first: float | None, last: float | None, size: int) -> slice | None:
    if first is None or last is None or not 0 <= first < last <= size + 1:
        return None
    start, stop = max(int(first) - 1, 0), min(int(last), size)
    return slice(start, stop) if stop - start >= size * _LEAST_KEPT else None


def _between_blank(display: NDArray[np.uint8]) -> slice:
    """From the first to the last row that is not blank; all rows when that would leave too few."""
    blank_from = display.shape[1] * _BLANK_SHARE
    black = np.count_nonzero(display <= _BLACK, axis=1) >= blank_from
    white = np.count_nonzero(display >= _WHITE, axis=1) >= blank_from
    shown = np.flatnonzero(~(black | white))
    if shown.size == 0 or shown[-1] + 1 - shown[0] < display.shape[0] * _LEAST_KEPT:
        return slice(None)
    return slice(int(shown[0]), int(shown[-1]) + 1)
