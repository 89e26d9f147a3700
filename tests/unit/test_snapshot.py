"""Which part a patient's images are for: decided once, by patient and family, and kept for ever."""

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.tables import Part
from hilum.network import LABELS
from training.snapshot import Image, lacking, parts_for, require_apart
from training.split import SplitLeaks

SHARES = (0.7, 0.15, 0.15)

image = st.builds(
    Image,
    uid=st.uuids().map(str),
    patient=st.integers(0, 12).map(lambda number: f"patient {number}"),
    pixels=st.integers(0, 25).map(lambda number: f"pixels {number}"),
    label=st.sampled_from(LABELS),
)
images = st.lists(image, max_size=40)


@given(st.lists(images, min_size=1, max_size=4))
def test_no_patient_and_no_image_is_ever_in_two_parts(nights: Sequence[Sequence[Image]]) -> None:
    settled: dict[str, Part] = {}
    for everything in accumulate(nights, lambda before, new: [*before, *new]):
        parts, apart = parts_for(everything, settled, SHARES)
        kept = [each for each in everything if each.patient not in apart]
        require_apart([(each.patient, each.pixels, parts[each.patient]) for each in kept])
        assert {patient: parts[patient] for patient in settled} == settled
        settled = parts


@given(images.flatmap(lambda made: st.tuples(st.just(made), st.permutations(made))))
def test_the_order_of_images_plays_no_part(either: tuple[list[Image], list[Image]]) -> None:
    one, other = (parts_for(everything, {}, SHARES) for everything in either)
    assert one == other


def alone(number: int, label: str = "Normal") -> Image:
    """An image of a patient who shares none."""
    return Image(str(number), f"patient {number}", f"pixels {number}", label)


def test_every_class_gets_its_shares_from_the_fifth_patient_on() -> None:
    few = [alone(number, LABELS[number % 4]) for number in range(20)]
    parts, _ = parts_for(few, {}, SHARES)
    for label in LABELS:
        of_label = [parts[each.patient] for each in few if each.label == label]
        assert sorted(of_label) == sorted([*[Part.TRAIN] * 3, Part.VALIDATION, Part.TEST])


def test_patients_who_come_one_by_one_come_into_all_parts_alike() -> None:
    settled: dict[str, Part] = {}
    for number in range(200):
        settled, _ = parts_for([alone(each) for each in range(number + 1)], settled, SHARES)
    counts = [list(settled.values()).count(part) for part in Part]
    assert counts == [140, 30, 30]


def test_who_shares_an_image_with_a_test_patient_is_tested_on_too() -> None:
    new = Image("2", "patient 2", "pixels 1", "Other")
    parts, apart = parts_for([alone(1), new], {"patient 1": Part.TEST}, SHARES)
    assert (parts["patient 2"], apart) == (Part.TEST, set())


def test_who_was_trained_on_and_shares_an_image_with_a_test_patient_is_left_out() -> None:
    settled = {"patient 1": Part.TEST, "patient 2": Part.TRAIN, "patient 3": Part.VALIDATION}
    shared = [Image(str(each), f"patient {each}", "pixels 1", "Other") for each in (1, 2, 3)]
    parts, apart = parts_for(shared, settled, SHARES)
    assert (parts, apart) == (settled, {"patient 2", "patient 3"})


@pytest.mark.parametrize(
    "leak",
    [
        [("patient 1", "pixels 1", "train"), ("patient 1", "pixels 2", "test")],
        [("patient 1", "pixels 1", "validation"), ("patient 2", "pixels 1", "test")],
    ],
    ids=["patient", "image"],
)
def test_a_leak_is_refused(leak: list[tuple[str, str, str]]) -> None:
    with pytest.raises(SplitLeaks, match="would be in more than one part"):
        require_apart(leak)


def test_what_a_snapshot_lacks_is_said_in_words() -> None:
    full = {label: {"ROOM1": 5} for label in LABELS}
    assert lacking({"train": full, "validation": full, "test": {"Other": {"ROOM1": 1}}}) == []
    poor = {"train": full, "validation": {**full, "COVID-19": {}}, "test": {}}
    assert lacking(poor) == ["no image of COVID-19 is for validation", "no image is for test"]
