"""The decoder's own process: it reads what strangers sent, and may die of it.

Started by `worker.decoder` only. Requests and answers are JSON, one a line, on stdin and stdout.
"""

import io
import json
import math
import os
import resource
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hilum import eligibility, radiograph
from hilum.errors import NotARadiograph, Undecodable
from hilum.kernel import dying_with, fsync

DISPLAY_SIDE = 1024
PIXELS_MB = 256
"""More pixels than this are not decoded, and a deflated file is not inflated further; a large
radiograph has 40 MB."""
_MB = 1_000_000
_LONGEST_REASON = 300
_DICOM = slice(128, 132)  # where a DICOM file says DICM (PS3.10 7.1)
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG")  # how JPEG and PNG begin
_NICENESS = 5  # receiving comes before decoding

Answer = dict[str, Any]


def main() -> None:
    memory_mb, parent = int(sys.argv[1]), int(sys.argv[2])
    dying_with(parent)()  # no orphan goes on decoding
    _limit(memory_mb)
    warnings.simplefilter("ignore")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with _own_stdout() as answers:
        answers.write("ready\n")
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps(answer(Path(request["path"]), Path(request["out"]))) + "\n")


def answer(path: Path, out: Path) -> Answer:
    """Prepare one image and return the answer to the parent; the key says how it went."""
    try:
        with path.open("rb") as file:
            facts, display = _read(file)
        if display is not None:
            _keep(display, out)
    except MemoryError:
        return {"out_of_memory": True}
    except Undecodable as error:
        return {"undecodable": _in_a_line(error)}
    except OSError as error:  # our own disk, not the sender's bytes
        return {"os_error": [error.errno, str(error)]}
    return {"prepared": facts}


def _in_a_line(error: Exception) -> str:
    """What an error says, without what a database or terminal chokes on: it may quote the file's bytes."""
    printable = "".join(each if each.isprintable() else " " for each in str(error))
    return " ".join(printable.split())[:_LONGEST_REASON]


def _read(file: BinaryIO) -> tuple[Answer, NDArray[np.uint8] | None]:
    """What is told of the image, and its display image when it is to be read."""
    try:
        return _decoded(file)
    except (MemoryError, Undecodable):
        raise
    except Exception as error:  # the border with whoever made the file: parsing it raises anything
        raise Undecodable(f"the file cannot be read: {error or type(error).__name__}") from error


def _decoded(file: BinaryIO) -> tuple[Answer, NDArray[np.uint8] | None]:
    start = file.read(_DICOM.stop)
    file.seek(0)
    if start[_DICOM] == b"DICM":
        return _dicom(file)
    if start.startswith(_PICTURES):
        return _picture(file)
    raise Undecodable("it is neither DICOM nor a JPEG or PNG picture")


def _picture(file: BinaryIO) -> tuple[Answer, NDArray[np.uint8] | None]:
    """It has no header, and passes for a frontal chest."""
    display = radiograph.without_blank_borders(radiograph.picture(file))
    because = radiograph.looks_like_a_frontal_chest(display)
    facts = {"pixel_hash": "", "view": "", "not_assessed_because": because}
    return facts, None if because else display


def _dicom(file: BinaryIO) -> tuple[Answer, NDArray[np.uint8] | None]:
    _require_bounded(file)
    header = dcmread(file, stop_before_pixels=True)
    facts = {"pixel_hash": "", "view": eligibility.view_of(header)}
    because = eligibility.why_not_assessed(header)
    if because is not None:
        return facts | {"not_assessed_because": because}, None
    file.seek(0)
    ds = dcmread(file)
    _require_budget(ds)
    try:
        display = radiograph.to_display(ds)
    except NotARadiograph as error:
        return facts | {"not_assessed_because": _in_a_line(error)}, None
    because = radiograph.looks_like_a_frontal_chest(display)
    facts["pixel_hash"] = radiograph.pixel_hash(ds)
    return facts | {"not_assessed_because": because}, None if because else display


def _require_bounded(file: BinaryIO) -> None:
    """Refuse a deflated file that unpacks to more than the budget, without unpacking more of it."""
    meta = read_file_meta_info(file.name)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        file.seek(128 + 4 + 12 + int(meta.FileMetaInformationGroupLength))
        inflating, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (packed := inflating.unconsumed_tail or file.read(65_536)) and size <= PIXELS_MB * _MB:
            size += len(inflating.decompress(packed, _MB))
        if size > PIXELS_MB * _MB:
            raise Undecodable(f"the file inflates to more than {PIXELS_MB} MB")
    file.seek(0)


def _require_budget(ds: Dataset) -> None:
    factors = ("Rows", "Columns", "BitsAllocated")
    size = math.prod(int(ds.get(factor) or 0) for factor in factors) / 8
    if size > PIXELS_MB * _MB:
        raise Undecodable(f"its pixels would take {size / _MB:.0f} MB, more than {PIXELS_MB} MB")


def _keep(display: NDArray[np.uint8], out: Path) -> None:
    """Write display.png and input.npy into the folder; when this returns, both are on disk."""
    out.mkdir(parents=True, exist_ok=True)
    array = io.BytesIO()
    np.save(array, radiograph.network_input(display), allow_pickle=False)
    _write(out / "input.npy", array.getvalue())
    picture = io.BytesIO()
    _shrunk(Image.fromarray(display)).save(picture, format="PNG", compress_level=3)
    _write(out / "display.png", picture.getvalue())
    fsync(out)


def _shrunk(image: Image.Image) -> Image.Image:
    """The image with its longest side at most DISPLAY_SIDE, each pixel the mean of those it covers."""
    scale = min(1.0, DISPLAY_SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{path.name}.aside")  # one name, so that what a crash left is overwritten
    aside.write_bytes(content)
    fsync(aside)
    aside.replace(path)


def _limit(memory_mb: int) -> None:
    """Allow this much memory on top of what the interpreter and the libraries have mapped."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = mapped + memory_mb * _MB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patient data
    os.nice(_NICENESS)


def _own_stdout() -> io.TextIOWrapper:
    """The stdout we were given, for answers alone: decoders print there, and may print patient data."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    return answers


if __name__ == "__main__":
    main()
