"""The decoder's own process: it reads what strangers sent, and may die of it.

Started by `worker.decoder` only. Requests and answers are JSON, one a line, on stdin and stdout.
"""

import hashlib
import io
import json
import math
import os
import resource
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from hilum.burned_in import text_boxes
from hilum.deidentification import age_years, deidentified, sex
from hilum.errors import NotARadiograph, Undecodable
from hilum.header import text
from hilum.kernel import dying_with, fsync
from hilum.pseudonyms import Deidentified, Pseudonyms
from hilum.store import DISPLAY_FILE, INPUT_FILE
from worker.spoken import LARGEST_BYTES, spoken

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
            answers.write(json.dumps(answer(**json.loads(line))) + "\n")


def answer(task: str, path: str, out: str, **request: Any) -> Answer:
    """Do a task with one image and return the answer to the parent; the key says how it went."""
    try:
        with Path(path).open("rb") as file:
            return {"done": _TASKS[task](file, Path(out), **request)}
    except MemoryError:
        return {"out_of_memory": True}
    except Undecodable as error:
        return {"undecodable": _in_a_line(error)}
    except OSError as error:  # our own disk, not the sender's bytes
        return {"os_error": [error.errno, str(error)]}


def _in_a_line(error: Exception) -> str:
    """What an error says, without what a database or terminal chokes on: it may quote the file's bytes."""
    printable = "".join(each if each.isprintable() else " " for each in str(error))
    return " ".join(printable.split())[:_LONGEST_REASON]


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever a stranger's file raises into Undecodable."""
    try:
        yield
    except (MemoryError, Undecodable):
        raise
    except Exception as error:  # the border with whoever made the file: parsing it raises anything
        raise Undecodable(f"the file cannot be read: {error or type(error).__name__}") from error


def _prepare(file: BinaryIO, out: Path) -> Answer:
    """Keep an image's display image and network input, when it is to be read; tell what is known."""
    with _reading():
        facts, display = _decoded(file)
    if display is not None:
        _keep(display, out)
    return facts


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
    header = _header(file)
    facts = {"pixel_hash": "", "view": eligibility.view_of(header)}
    because = eligibility.why_not_assessed(header)
    if because is not None:
        return facts | {"not_assessed_because": because}, None
    ds = _whole(file)
    try:
        display = radiograph.to_display(ds)
    except NotARadiograph as error:
        return facts | {"not_assessed_because": _in_a_line(error)}, None
    because = radiograph.looks_like_a_frontal_chest(display)
    facts["pixel_hash"] = radiograph.pixel_hash(ds)
    return facts | {"not_assessed_because": because}, None if because else display


def _header(file: BinaryIO) -> Dataset:
    _require_bounded(file)
    return dcmread(file, stop_before_pixels=True)


def _whole(file: BinaryIO) -> Dataset:
    file.seek(0)
    ds = dcmread(file)
    _require_budget(ds)
    return ds


def _deidentify(file: BinaryIO, out: Path, *, key: str, patient_id: str, looked_at: bool) -> Answer:
    """Write an image under pseudonyms, when nothing is against that, and tell what may be told of it."""
    with _reading():
        header = _header(file)
        because = _why_kept_back(header, looked_at=looked_at)
        if because is None:
            ds = _whole(file)
            because = _why_pixels_are_kept_back(ds, looked_at=looked_at)
        if because is not None:
            return asdict(Deidentified(kept_back_because=because))
        made = deidentified(ds, radiograph.stored_values(ds), Pseudonyms(bytes.fromhex(key)), patient_id)
        content = io.BytesIO()
        made.save_as(content, enforce_file_format=True)
    _write(out, content.getvalue())
    view, sha256 = eligibility.view_of(header), hashlib.sha256(content.getvalue()).hexdigest()
    return asdict(Deidentified(None, view, sex(header), age_years(header), sha256))


def _spoken(file: BinaryIO, out: Path) -> Answer:
    """Tell what a person says in an object without pixels; nothing is written."""
    if os.fstat(file.fileno()).st_size > LARGEST_BYTES:
        raise Undecodable(f"it is larger than {LARGEST_BYTES // _MB} MB: nobody writes so much")
    with _reading():
        _require_bounded(file)
        return asdict(spoken(_whole(file)))


def _why_kept_back(header: Dataset, *, looked_at: bool) -> str | None:
    if text(header, "BurnedInAnnotation") == "YES" and not looked_at:
        return "its header says that text is burned into its pixels"
    return eligibility.why_not_assessed(header)


def _why_pixels_are_kept_back(ds: Dataset, *, looked_at: bool) -> str | None:
    try:
        because = radiograph.looks_like_a_frontal_chest(radiograph.to_display(ds))
        boxes = [] if looked_at or because else text_boxes(radiograph.stored_values(ds))
    except NotARadiograph as error:
        return _in_a_line(error)
    if not boxes:
        return because
    first = f"rows {boxes[0].top} to {boxes[0].bottom}, columns {boxes[0].left} to {boxes[0].right}"
    return f"its pixels seem to show text ({first}{', and elsewhere' * (len(boxes) > 1)})"


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
    _write(out / INPUT_FILE, array.getvalue())
    picture = io.BytesIO()
    _shrunk(Image.fromarray(display)).save(picture, format="PNG", compress_level=3)
    _write(out / DISPLAY_FILE, picture.getvalue())
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


_TASKS: dict[str, Callable[..., Answer]] = {
    "prepare": _prepare,
    "deidentify": _deidentify,
    "spoken": _spoken,
}


if __name__ == "__main__":
    main()
