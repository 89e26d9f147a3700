"""Strangers: images that are no frontal chest radiograph, made out of some that are, or drawn.

Every kind is a function of an image (224, 224) uint8 and a random generator. `KINDS` are for learning what is
strange; `UNSEEN` are others, to judge by whether that has been learnt. Two of these are near, though:
`upside_down` is `turned` by 180 degrees and mirrored, and `cornered` cuts out a little more than `magnified`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from hilum.radiograph import INPUT_SIZE, network_input

Gray = NDArray[np.uint8]
Values = NDArray[np.float64]
Maker = Callable[[Gray, np.random.Generator], Gray]


def strangers(pixels: Gray, kinds: Mapping[str, Maker], seed: int = 0) -> Gray:
    """Return (N, 224, 224), one stranger for each image, the kinds in turn.

    They come through `hilum.radiograph.network_input`, as images at work do.
    """
    rng, makers = np.random.default_rng(seed), list(kinds.values())
    made = [makers[index % len(makers)](image, rng) for index, image in enumerate(pixels)]
    return np.stack([network_input(np.ascontiguousarray(image)) for image in made])


def varied(pixels: Gray, seed: int = 0) -> Gray:
    """Return (N, 224, 224), images as other rooms might have taken them: no strangers yet."""
    rng = np.random.default_rng(seed)
    return np.stack([network_input(_taken_elsewhere(image, rng)) for image in pixels])


def _taken_elsewhere(image: Gray, rng: np.random.Generator) -> Gray:
    """Turned by up to 10 degrees, cut to no less than 0.75, brighter or darker, blurred and noisy."""
    angle = rng.uniform(-10, 10)
    turn = abs(np.radians(angle))
    side = int(
        len(image) * rng.uniform(0.9, 1) / (np.cos(turn) + np.sin(turn))
    )  # nothing from beyond its edges
    start = (len(image) - side) // 2
    bright = (255 * (image / 255) ** rng.uniform(0.6, 1.6)).astype(np.uint8)
    picture = Image.fromarray(bright).rotate(angle, Image.Resampling.BILINEAR)
    cut = picture.crop((start, start, start + side, start + side))
    soft = np.asarray(cut.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1))), np.float64)
    return np.asarray(np.clip(soft + rng.normal(0, rng.uniform(0, 8), soft.shape), 0, 255), np.uint8)


def turned(image: Gray, rng: np.random.Generator) -> Gray:
    """Lying on one side, or upside down."""
    return np.asarray(np.rot90(image, int(rng.integers(1, 4))))


def inverted(image: Gray, rng: np.random.Generator) -> Gray:
    """Bone black."""
    return 255 - image


def magnified(image: Gray, rng: np.random.Generator) -> Gray:
    """A sixteenth to a sixth of it: a joint, a few ribs."""
    side = int(len(image) * rng.uniform(0.25, 0.4))
    top, left = rng.integers(0, len(image) - side, 2)
    return image[top : top + side, left : left + side]


def halved(image: Gray, rng: np.random.Generator) -> Gray:
    """One lung, drawn out to the whole width."""
    half = image[:, : len(image) // 2] if rng.random() < 0.5 else image[:, len(image) // 2 :]
    return np.asarray(Image.fromarray(half).resize(image.shape))


def shuffled(image: Gray, rng: np.random.Generator) -> Gray:
    """Cut into 9 to 49 squares that lie in another order."""
    count = int(rng.integers(3, 8))
    side = len(image) // count
    squares = [
        image[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(count)
        for column in range(count)
    ]
    order = rng.permutation(len(squares)).reshape(count, count)
    return np.vstack([np.hstack([squares[index] for index in row]) for row in order])


def bent(image: Gray, rng: np.random.Generator) -> Gray:
    """Pulled out of shape, as if another part of a body."""
    side = len(image)
    shifts = [_cloud(rng, 3.0, side) * side * rng.uniform(0.15, 0.3) for _ in range(2)]
    rows, columns = np.mgrid[:side, :side]
    down, across = (
        np.clip(at + shift, 0, side - 1).astype(np.intp)
        for at, shift in zip((rows, columns), shifts, strict=True)
    )
    return np.asarray(image[down, across])


def blurred(image: Gray, rng: np.random.Generator) -> Gray:
    """So much out of focus that nothing but light and dark is left."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(7, 20))))


def scrambled(image: Gray, rng: np.random.Generator) -> Gray:
    """The same frequencies at other places."""
    phases = np.exp(1j * np.angle(np.fft.rfft2(rng.standard_normal(image.shape))))
    return _gray(np.fft.irfft2(np.abs(np.fft.rfft2(image - image.mean())) * phases, image.shape))


def clouded(image: Gray, rng: np.random.Generator) -> Gray:
    """Noise, from white to clouds."""
    return _gray(_cloud(rng, rng.uniform(0, 2.5), len(image)))


def pasted(image: Gray, rng: np.random.Generator) -> Gray:
    """Pieces of it, as round or angular things on a dark or bright ground."""
    side = len(image)
    ground = Image.new("L", (side, side), int(rng.choice([0, 0, 255])))
    for _ in range(rng.integers(1, 7)):
        piece = Image.fromarray(magnified(image, rng)).resize((side, side))
        ground.paste(piece, mask=_thing(side, rng))
    return np.asarray(ground)


def upside_down(image: Gray, rng: np.random.Generator) -> Gray:
    """Mirrored from top to bottom."""
    return image[::-1]


def cornered(image: Gray, rng: np.random.Generator) -> Gray:
    """One of its quarters."""
    half = len(image) // 2
    top, left = rng.integers(0, 2, 2) * half
    return image[top : top + half, left : left + half]


def checkered(image: Gray, rng: np.random.Generator) -> Gray:
    squares = np.indices(image.shape) // int(rng.integers(2, 24))
    return np.asarray((squares.sum(axis=0) % 2) * rng.integers(120, 255), np.uint8)


def shaded(image: Gray, rng: np.random.Generator) -> Gray:
    """From dark to light, with a little noise."""
    down, across = np.indices(image.shape)
    angle = rng.uniform(0, 2 * np.pi)
    return _gray(np.cos(angle) * down + np.sin(angle) * across + rng.normal(0, 0.5, image.shape))


def landscape(image: Gray, rng: np.random.Generator) -> Gray:
    """Drawn: hills, one before the other, and trees."""
    gray = np.linspace(230, 150, INPUT_SIZE)[:, None].repeat(INPUT_SIZE, 1)
    across = np.arange(INPUT_SIZE)
    for hill in range(4):
        ridge = 60 + hill * 40 + np.interp(across, np.linspace(0, INPUT_SIZE, 9), rng.normal(0, 14, 9))
        ground = 140 - hill * 25 + 14 * _cloud(rng, 1.0, INPUT_SIZE)
        gray = np.where(across[:, None] > ridge, ground, gray)
    picture = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(3, 12)):
        x, y, height = rng.integers((0, 90, 20), (INPUT_SIZE, 210, 60)).tolist()
        draw.rectangle([x - 2, y, x + 2, y + height], fill=40)
        draw.ellipse([x - height // 3, y - height // 2, x + height // 3, y + height // 4], fill=80)
    return np.asarray(picture)


def hand(image: Gray, rng: np.random.Generator) -> Gray:
    """Drawn: bones of wrist, palm and fingers in soft tissue."""
    soft, bone = (Image.new("L", (2 * INPUT_SIZE, 2 * INPUT_SIZE)) for _ in range(2))
    of_soft, of_bone = ImageDraw.Draw(soft), ImageDraw.Draw(bone)
    of_soft.ellipse([139, 176, 309, 366], fill=255)
    of_soft.rectangle([174, 296, 274, 448], fill=255)
    for x in (202, 244):
        of_bone.line([x, 366, x, 448], fill=255, width=28)
    for place in range(8):
        x, y = 189 + place % 4 * 24, 311 + place // 4 * 22
        of_bone.ellipse([x - 11, y - 10, x + 11, y + 10], fill=230)
    spread = rng.uniform(0.7, 1.3)
    fingers = zip((-55, -17, -4, 9, 22), (120, 200, 225, 205, 165), strict=True)
    for place, (angle, length) in enumerate(fingers):
        root, bent_by = np.array([164 + 30 * place, 286]), np.radians(angle * spread)
        way = length * np.array([np.sin(bent_by), -np.cos(bent_by)])
        of_soft.line([*root, *(root + way)], fill=255, width=40)
        for start, end in ((0.04, 0.4), (0.44, 0.66), (0.7, 0.84), (0.88, 0.98)):
            of_bone.line([*(root + start * way), *(root + end * way)], fill=255, width=14)
    turn = rng.uniform(-25, 25) + 180 * int(rng.integers(0, 2))
    blurs = ((soft, 7, 0.35), (bone, 2, 0.5))
    layers = [
        share * np.asarray(of.rotate(turn).filter(ImageFilter.GaussianBlur(blur)), np.float64)
        for of, blur, share in blurs
    ]
    return _exposed(layers[0] + layers[1] + 8, rng)


def lateral(image: Gray, rng: np.random.Generator) -> Gray:
    """Drawn: a chest from the side, the heart before the spine."""
    down, across = np.mgrid[:INPUT_SIZE, :INPUT_SIZE] / INPUT_SIZE

    def ellipse(x: float, y: float, width: float, height: float, turn: float, edge: float) -> Values:
        x, y = x + rng.normal(0, 0.01), y + rng.normal(0, 0.01)
        along = (across - x) * np.cos(turn) + (down - y) * np.sin(turn)
        upright = (down - y) * np.cos(turn) - (across - x) * np.sin(turn)
        return np.asarray(1 / (1 + np.exp((np.hypot(along / width, upright / height) - 1) / edge)))

    body = ellipse(0.5, 0.62, 0.4, 0.62, 0.0, 0.02)
    gray = 150 * body - 105 * body * ellipse(0.48, 0.45, 0.27, 0.34, -0.1, 0.07)
    gray += 60 * ellipse(0.36, 0.58, 0.15, 0.17, 0.5, 0.1) + 70 * ellipse(0.47, 0.95, 0.4, 0.24, -0.25, 0.03)
    gray += 30 * ellipse(0.2, 0.35, 0.02, 0.2, -0.35, 0.1) + 40 * ellipse(0.36, 0.05, 0.1, 0.1, 0.0, 0.1)
    for vertebra in range(12):
        y = 0.03 + vertebra * 0.083
        gray += 45 * ellipse(0.74 + 0.06 * np.sin(3 * y - 0.3), y, 0.055, 0.034, 0.1, 0.06)
    return _exposed(gray if rng.random() < 0.5 else gray[:, ::-1], rng)


def _named(*makers: Maker) -> dict[str, Maker]:
    return {maker.__name__: maker for maker in makers}


KINDS = _named(turned, inverted, magnified, halved, shuffled, bent, blurred, scrambled, clouded, pasted)
UNSEEN = _named(upside_down, cornered, checkered, shaded, landscape, hand, lateral)


def _cloud(rng: np.random.Generator, smoothness: float, side: int) -> Values:
    """Return noise (side, side), mean 0, deviation 1; its amplitude falls with frequency to this power."""
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    frequency = np.maximum(np.hypot(down, across), 1 / side)
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-smoothness
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (side, side))
    return np.asarray(noise / noise.std())


def _gray(values: Values) -> Gray:
    low, high = values.min(), values.max()
    return np.asarray((values - low) * (255 / max(high - low, 1e-9)), np.uint8)


def _exposed(gray: Values, rng: np.random.Generator) -> Gray:
    noisy = gray * (1 + 0.03 * _cloud(rng, 1.2, len(gray))) + rng.normal(0, 2, gray.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _thing(side: int, rng: np.random.Generator) -> Image.Image:
    """A mask: an ellipse or a polygon, turned, of any proportion."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    middle, size = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.04, 0.4, 2) * side
    if rng.random() < 0.6:
        draw.ellipse([*(middle - size), *(middle + size)], fill=255)
    else:
        draw.polygon([tuple(middle + corner * size) for corner in rng.uniform(-1, 1, (5, 2))], fill=255)
    return mask.rotate(rng.uniform(0, 180))
