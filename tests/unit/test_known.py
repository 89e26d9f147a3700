"""What is strange: fitted to features that are simply counted out of pixels, and to a small network."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum.engine import choose_engine
from hilum.network import STRANGENESS, add_file, load_artefact
from hilum.strangeness import LIMIT, Strangeness
from tests.unit.artefacts import untrained
from training import data, known
from training.data import Images
from training.strangers import KINDS, UNSEEN, strangers, varied
from training.unseen import LEARNT

GROUPS = 48, 32, 24


def blocks(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (N, 64), the mean gray of blocks of 28 x 28 pixels."""
    return np.asarray(pixels.reshape(-1, 8, 28, 8, 28).mean(axis=(2, 4)).reshape(-1, 64), np.float32)


@pytest.fixture(scope="module")
def everything() -> Images:
    """Phantoms, of which every other four count as radiographs."""
    images = data.phantoms(range(sum(GROUPS)))
    sources = np.where(np.arange(len(images)) // 4 % 2, data.PHANTOM, "somewhere")
    return replace(images, sources=sources)


@pytest.fixture(scope="module")
def parts() -> NDArray[np.str_]:
    return np.repeat(data.PARTS, GROUPS)


@pytest.fixture(scope="module")
def fitted(everything: Images, parts: NDArray[np.str_]) -> Strangeness:
    return known.fit(everything.where(parts == "train"), everything.where(parts == "validation"), blocks)


def test_hardly_any_image_to_be_read_is_refused_and_most_strangers_are(
    fitted: Strangeness, everything: Images, parts: NDArray[np.str_]
) -> None:
    held_out = everything.where(parts == "validation")
    is_refused = fitted.of(blocks(held_out.pixels)) > LIMIT
    assert np.count_nonzero(is_refused) <= 2  # one of each source
    measured = known.rates(fitted, everything.where(parts == "test"), blocks)
    assert set(measured["refused"]) == {"somewhere", data.PHANTOM}
    assert max(measured["refused"].values()) < 0.2
    assert set(measured["caught of other kinds"]) == set(UNSEEN)
    assert measured["test images made into strangers"] == GROUPS[2]
    for name in ("inverted", "upside_down", "lateral", "hand", "landscape"):
        assert (measured["caught of known kinds"] | measured["caught of other kinds"])[name] > 0.9, name


def test_strangers_that_lie_near_are_known_by_their_direction() -> None:
    rng = np.random.default_rng(0)
    usual = rng.standard_normal((400, 8)).astype(np.float32)
    usual[:, 3] *= 0.1
    strange = usual + np.eye(8, dtype=np.float32)[3]
    direction = known._direction(usual, strange)
    assert direction.argmax() == 3
    assert (strange @ direction).min() > (usual @ direction).max()


def test_the_same_images_give_the_same(
    fitted: Strangeness, everything: Images, parts: NDArray[np.str_]
) -> None:
    again = known.fit(everything.where(parts == "train"), everything.where(parts == "validation"), blocks)
    assert again.content() == fitted.content()


def test_what_a_hospital_has_may_hold_no_phantom(everything: Images, parts: NDArray[np.str_]) -> None:
    real = replace(everything, sources=np.full(len(everything), "somewhere"))
    fitted = known.fit(real.where(parts == "train"), real.where(parts == "validation"), blocks)
    scores = fitted.of(blocks(real.where(parts == "validation").pixels))
    assert 0 < np.count_nonzero(scores > LIMIT) <= 1


def test_features_that_never_vary_do_no_harm(everything: Images, parts: NDArray[np.str_]) -> None:
    def with_dead_ones(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([blocks(pixels), np.zeros((len(pixels), 200), np.float32)], axis=1)

    training, validation = (everything.where(parts == part) for part in ("train", "validation"))
    fitted = known.fit(training, validation, with_dead_ones)
    scores = fitted.of(with_dead_ones(strangers(validation.pixels, UNSEEN)))
    assert np.isfinite(scores).all()
    assert (scores > LIMIT).mean() > 0.9


def test_strangers_of_every_kind_are_inputs_and_no_two_images_the_same() -> None:
    pixels = data.phantoms([1, 2]).pixels
    for name, kind in {**KINDS, **UNSEEN}.items():
        made = strangers(pixels, {name: kind})
        assert made.shape == pixels.shape, name
        assert made.dtype == np.uint8
        assert made.max() - made.min() > 100, name
        assert len({image.tobytes() for image in (*made, *pixels)}) == 4, name
        np.testing.assert_array_equal(made, strangers(pixels, {name: kind}))


def test_images_taken_elsewhere_look_alike_and_are_others() -> None:
    pixels = data.phantoms([1, 2, 3]).pixels
    taken = varied(pixels)
    assert taken.dtype == np.uint8
    for image, other in zip(pixels, taken, strict=True):
        assert 0.7 < np.corrcoef(image.ravel(), other.ravel())[0, 1] < 0.999
    np.testing.assert_array_equal(taken, varied(pixels))


def test_an_artefact_is_fitted_anew_and_keeps_its_weights(
    everything: Images, parts: NDArray[np.str_], tmp_path: Path
) -> None:
    before = load_artefact(untrained(tmp_path / "before", "mobilenet_v3_small"))
    before = add_file(before, LEARNT, b"0123\n", {})
    some = np.arange(len(everything)) % 4 == 0
    after = known.refit(before, everything.where(some), parts[some], tmp_path / "after")
    changed = {
        name for name, digest in after.manifest["sha256"].items() if digest != before.manifest["sha256"][name]
    }
    assert changed == {STRANGENESS, LEARNT}
    known_by_it = everything.digests[some & (parts != "test") & (everything.sources != data.PHANTOM)]
    assert (after.folder / LEARNT).read_text().split() == sorted(["0123", *known_by_it.tolist()])
    assert after.digest != before.digest
    assert re.fullmatch(rf"{re.escape(before.version)}\+[0-9a-f]{{8}}", after.version)
    assert load_artefact(before.folder).digest == before.digest
    scores = choose_engine(after, "cpu").read(everything.where(some & (parts == "validation")).pixels).ood
    assert np.count_nonzero(scores > LIMIT) <= 2  # one of each source
    assert 0 <= after.manifest["strangeness"]["refused"]["somewhere"] <= 1
