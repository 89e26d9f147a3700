"""Text burned into pixels: found by its shape, not read.

`python -m hilum.burned_in FOLDER` names the JPEG and PNG pictures in it that seem to show text.

Letters are thin strokes that stand out from what lies around them; a word is three or more of them, alike in
height, on one line. Markers of one or two letters (L, AP) are too common, and too short to name anybody.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hilum.radiograph import picture

Shapes = NDArray[np.int64]
"""(N, 5): top, left, bottom and right of each, and how many pixels it has."""

_STROKE = 9  # pixels: what is broader is no stroke, at this scale
_CONTRASTS = (50, 90, 140)  # of 255; weak ones find faint text, strong ones part letters that touch
_SCALES = 4  # each half as fine as the one before: letters of 6 to 400 pixels
_SMALLEST_SIDE = 160
_MOST_STROKES = 0.25  # of an image: beyond that it is noise, of which a coarser scale has less
_MOST_RUNS = 200_000
_LETTER = (5, 48)  # pixels high
_LEAST_LETTERS = 3
_TURNED = [1, 0, 3, 2, 4]  # what a shape's numbers are when the image is read down its columns


class Box(NamedTuple):
    """Pixels [top, bottom) by [left, right)."""

    top: int
    left: int
    bottom: int
    right: int


def text_boxes(stored: NDArray[np.uint8 | np.uint16 | np.int16]) -> list[Box]:
    """Return where something looks like text in an image (H, W), whatever its gray scale.

    Found is print of letters 5 pixels high or more, upright or turned by a right angle; no handwriting.
    """
    found = {
        Box(*(scale * side for side in word))
        for stretched in _grays(stored)
        for scale, gray in _scales(stretched)
        for word in _words(gray)
    }
    return sorted(found)


def _grays(stored: NDArray[np.uint8 | np.uint16 | np.int16]) -> Iterator[NDArray[np.uint8]]:
    """The image in 8 bits, stretched so that a few extreme pixels do not hide the others.

    Print on a border that is among the brightest or darkest is beyond that: so what lies above and what
    lies below is stretched by itself.
    """
    low, high = np.percentile(stored[::2, ::2], (0.5, 99.5))
    for first, last in ((low, high), (high, float(stored.max())), (float(stored.min()), low)):
        if last > first or (first, last) == (low, high):
            gray = (stored.astype(np.float32) - first) * (255 / max(last - first, 1.0))
            yield np.clip(gray, 0, 255).astype(np.uint8)


def _scales(gray: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    image = Image.fromarray(gray)
    for scale in (2**k for k in range(_SCALES)):
        if scale == 1 or min(image.size) // scale >= _SMALLEST_SIDE:
            yield scale, np.asarray(image.reduce(scale))


def _words(gray: NDArray[np.uint8]) -> Iterator[Box]:
    """Words of bright and of dark letters, upright and turned."""
    for each in (gray, 255 - gray):
        strokes = each - _opened(each)
        for contrast in _CONTRASTS:
            shapes = _shapes(strokes > contrast)
            yield from (_around(word) for word in _in_lines(shapes))
            if contrast > _CONTRASTS[0]:  # vertebrae and ribs are faint letters on a turned line
                yield from (_around(word[:, _TURNED]) for word in _in_lines(shapes[:, _TURNED]))


def _around(word: Shapes) -> Box:
    top, left = word[:, :2].min(axis=0).tolist()
    bottom, right = word[:, 2:4].max(axis=0).tolist()
    return Box(top, left, bottom, right)


def _opened(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image without what is bright and narrower than a stroke may be (gray scale opening by a square)."""
    for darkest_then_brightest in (np.minimum, np.maximum):
        for _ in range(2):
            gray = _running(darkest_then_brightest, gray.T)
    return gray


def _running(choose: Callable[..., NDArray[np.uint8]], gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The least, or the greatest, of the _STROKE pixels around each along a column."""
    padded = np.pad(gray, ((_STROKE // 2, _STROKE // 2), (0, 0)), mode="edge")
    span = 1
    while span < _STROKE:
        step = min(span, _STROKE - span)
        padded, span = choose(padded[:-step], padded[step:]), span + step
    return padded


def _shapes(mask: NDArray[np.bool_]) -> Shapes:
    """What hangs together in a mask, diagonally too; nothing of a mask that is too full to hold text."""
    if mask.mean() > _MOST_STROKES:
        return np.empty((0, 5), np.int64)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    if not 0 < len(rows) < _MOST_RUNS:
        return np.empty((0, 5), np.int64)
    of = np.unique(_joined(rows.tolist(), starts.tolist(), ends.tolist()), return_inverse=True)[1]
    order = np.argsort(of, kind="stable")
    first = np.flatnonzero(np.diff(of[order], prepend=-1))
    sides = ((np.minimum, rows), (np.minimum, starts), (np.maximum, rows + 1), (np.maximum, ends))
    boxes = [each.reduceat(values[order], first) for each, values in sides]
    return np.stack([*boxes, np.add.reduceat((ends - starts)[order], first)], axis=1)


def _joined(rows: list[int], starts: list[int], ends: list[int]) -> NDArray[np.int64]:
    """For each run of pixels, in reading order, a number that those have in common which hang together."""
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0
    for run, row in enumerate(rows):
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] < starts[run]):
            above += 1
        touching = above
        while rows[touching] == row - 1 and starts[touching] <= ends[run]:
            one, other = root(run), root(touching)
            parent[max(one, other)] = min(one, other)
            touching += 1
    return np.array([root(run) for run in range(len(rows))], np.int64)


def _in_lines(shapes: Shapes) -> Iterator[Shapes]:
    """Letters, three or more, that stand beside each other on a line."""
    letters = _like_letters(shapes)
    free = np.ones(len(letters), np.bool_)
    for first in range(len(letters)):
        word = [first]
        while free[first] and (following := _next(letters, word[-1], free)) is not None:
            word.append(following)
        if len(word) >= _LEAST_LETTERS:
            free[word] = False
            yield letters[word]


def _like_letters(shapes: Shapes) -> Shapes:
    """Those of a letter's size, shape and share of strokes, from left to right."""
    high, wide = shapes[:, 2] - shapes[:, 0], shapes[:, 3] - shapes[:, 1]
    share = shapes[:, 4] / np.maximum(high * wide, 1)
    fits = (
        (high >= _LETTER[0]) & (high <= _LETTER[1]) & (wide <= 1.6 * high) & (share > 0.12) & (share < 0.95)
    )
    letters: Shapes = shapes[fits]
    return letters[np.argsort(letters[:, 1], kind="stable")]


def _next(letters: Shapes, one: int, free: NDArray[np.bool_]) -> int | None:
    """The letter after this one, on its line and about as high; None where there is none."""
    top, _, bottom, right, _ = letters[one]
    high = bottom - top
    first, last = np.searchsorted(letters[:, 1], (right - 1, right + max(0.9 * high, 3) + 1))
    near = slice(max(one + 1, int(first)), int(last))
    follows = free[near] & (np.abs(letters[near, 2] - bottom) <= max(0.2 * high, 1.5))
    follows &= np.abs(letters[near, 2] - letters[near, 0] - high) <= 0.35 * high
    return near.start + int(np.argmax(follows)) if follows.any() else None


def _main(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    flagged = [file for file in files if text_boxes(picture(file))]
    sys.stdout.writelines(f"{file}\n" for file in flagged)
    sys.stdout.write(f"{len(flagged)} of {len(files)} pictures seem to show text\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
