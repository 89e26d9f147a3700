"""What a fuzzer does to bytes."""

from random import Random

_BOUNDARIES = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)
_LENGTHS = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x20000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


def mutated(content: bytes, rng: Random) -> bytes:
    """These bytes with one thing wrong, or with some."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_MUTATIONS)(changed, rng)
    return bytes(changed)


def _flip_a_bit(content: bytearray, rng: Random) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set_a_byte(content: bytearray, rng: Random) -> None:
    if content:
        content[rng.randrange(min(len(content), 200))] = rng.choice((*_BOUNDARIES, rng.randrange(256)))


def _set_a_length(content: bytearray, rng: Random) -> None:
    """Somewhere stands a boundary where a length of 2 or 4 bytes may be, in either order."""
    size, order = rng.choice((2, 4)), rng.choice(("little", "big"))
    value = rng.choice(_LENGTHS) & (256**size - 1)
    at = rng.choice((2, rng.randrange(max(1, len(content)))))
    content[at : at + size] = value.to_bytes(size, order)


def _shift_a_length(content: bytearray, rng: Random) -> None:
    """A byte, mostly of a length, grows or shrinks a little."""
    if content:
        at = rng.randrange(len(content))
        content[at] = (content[at] + rng.choice((-2, -1, 1, 2))) % 256


def _cut_out(content: bytearray, rng: Random) -> None:
    at = rng.randrange(max(1, len(content)))
    del content[at : at + rng.choice((1, 2, 4, 30))]


def _put_in(content: bytearray, rng: Random) -> None:
    at = rng.randrange(len(content) + 1)
    content[at:at] = rng.randbytes(rng.choice((1, 2, 4, 30)))


def _repeat(content: bytearray, rng: Random) -> None:
    at = rng.randrange(max(1, len(content)))
    content[at:at] = content[at : at + rng.choice((4, 30, 200))]


def _cut_off(content: bytearray, rng: Random) -> None:
    del content[rng.randrange(max(1, len(content))) :]


def _make_anew(content: bytearray, rng: Random) -> None:
    content[6:] = rng.randbytes(rng.randrange(200))


_MUTATIONS = (
    _flip_a_bit,
    _set_a_byte,
    _set_a_length,
    _shift_a_length,
    _cut_out,
    _put_in,
    _repeat,
    _cut_off,
    _make_anew,
)
