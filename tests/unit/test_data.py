import numpy as np
import pytest

from hilum import phantom
from hilum.network import LABELS
from hilum.radiograph import network_input, to_display
from training import data
from training.data import Images


@pytest.fixture(scope="module")
def some() -> Images:
    return data.phantoms([3, 4, 5])


def test_phantoms_come_as_they_come_at_work_each_a_patient_of_its_own(some: Images) -> None:
    ds = phantom.phantom(4, "Normal", rows=320, columns=262)
    np.testing.assert_array_equal(some.pixels[1], network_input(to_display(ds)))
    assert [LABELS[label] for label in some.labels] == ["Other", "Normal", "Pneumonia"]
    assert len(set(some.patients)) == len(set(some.digests)) == 3
    assert set(some.sources) == {data.PHANTOM}
    assert (some.views[1], some.sexes[1], some.ages_years[1]) == ("PA", ds.PatientSex, int(ds.PatientAge[:3]))


def test_another_drawing_is_another_image_in_a_split(some: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "DRAWING", "another")
    again = data.phantoms([3, 4, 5])
    assert not set(again.digests) & set(some.digests)
    assert again.patients.tolist() == some.patients.tolist()


def test_no_seeds_give_no_phantoms() -> None:
    assert data.phantoms([]).pixels.shape == (0, 224, 224)


def test_images_are_chosen_by_a_mask_or_in_an_order(some: Images) -> None:
    assert some.where(some.labels == 0).patients.tolist() == ["phantom-4"]
    turned = some.where(np.array([2, 0]))
    assert turned.patients.tolist() == ["phantom-5", "phantom-3"]
    np.testing.assert_array_equal(turned.pixels, some.pixels[[2, 0]])


def test_what_is_known_of_images_is_had_without_their_pixels(some: Images) -> None:
    chosen = np.arange(len(some)) % 2 == 1
    known, whole = some.known_of(chosen), some.where(chosen)
    assert known.pixels.size == 0
    assert len(known) == len(known.pixels) == len(whole)
    np.testing.assert_array_equal(known.digests, whole.digests)


def test_images_are_put_together_in_order(some: Images) -> None:
    both = data.together([some.where(np.array([1])), some])
    assert both.patients.tolist() == ["phantom-4", "phantom-3", "phantom-4", "phantom-5"]
    assert both.ages_years.dtype == np.float64


def test_the_digest_names_images_labels_and_parts(some: Images) -> None:
    parts, moved = np.array(["train", "test", "test"]), np.array(["test", "test", "test"])
    relabelled = Images(**{**vars(some), "labels": np.array([0, 0, 0])})
    digests = {data.digest(some, parts), data.digest(some, moved), data.digest(relabelled, parts)}
    assert len(digests) == 3
    order = np.array([2, 0, 1])
    assert data.digest(some.where(order), parts[order]) == data.digest(some, parts)


def test_images_are_counted_by_part_source_and_label(some: Images) -> None:
    parts = np.array(["train", "train", "test"])
    assert data.counts(some, parts) == {
        "train": {"phantom Normal": 1, "phantom Other": 1},
        "validation": {},
        "test": {"phantom Pneumonia": 1},
    }
