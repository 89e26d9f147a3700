import csv
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum import phantom
from hilum.engine import choose_engine
from hilum.errors import HilumError
from hilum.network import LABELS, load_artefact
from training import data, recipe

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # two threads wait for each other where other tests run beside them

FIRST = Path(recipe.__file__).parent / "recipes" / "first.toml"
CLASSES = {"Normal": "normal", "Pneumonia": "pneumonia", "COVID-19": "covid19", "Other": "other"}
TINY = """
name = "tiny"
licence = "Apache-2.0"
seed = 1
shares = [0.5, 0.25, 0.25]
training_phantoms = 16
held_out_phantoms = 8
phantom_share = 0.5
images_per_epoch = 32
batch_size = 16
learning_rate = 1e-3
weight_decay = 0.05
label_smoothing = 0.0
mixup = 0.1
averaging = 0.8
teacher = "nobody"
teacher_weight = 0.0

[[stages]]
epochs = 1
size_px = 64
validation_size_px = 64

[[stages]]
epochs = {epochs}
size_px = 64
validation_size_px = 64
"""


def known_images(patients: list[str], labels: list[int]) -> data.Images:
    count = len(patients)
    return data.Images(
        pixels=np.zeros((count, 224, 224), np.uint8),
        labels=np.array(labels),
        sources=np.array(["somewhere"] * count),
        patients=np.array(patients),
        digests=np.array([f"{index:064x}" for index in range(count)]),
        views=np.array(["PA"] * count),
        sexes=np.array(["F"] * count),
        ages_years=np.array([61.0] * count),
    )


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEG images of 16 patients with a manifest, as collections of radiographs come."""
    folder = tmp_path_factory.mktemp("collection")
    with (folder / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "class", "source_dataset", "patient_id", "sha256"])
        for seed in range(16):
            label = LABELS[seed % 4]
            drawn = phantom.draw(500 + seed, label, rows=320, columns=262)
            Image.fromarray((drawn * 255).astype(np.uint8)).save(folder / f"{seed}.jpg")
            lines.writerow([f"{seed}.jpg", CLASSES[label], "somewhere", f"patient-{seed}", f"{seed:064x}"])
    return folder


def test_no_patient_is_in_two_parts() -> None:
    patients = [f"patient-{index % 70}" for index in range(200)]
    images = known_images(patients, [index % 4 for index in range(200)])
    parts = data.split(images, (0.7, 0.15, 0.15), seed=1)
    for patient in set(patients):
        assert len(set(parts[images.patients == patient])) == 1


def test_every_part_holds_about_the_same_mix() -> None:
    labels = [0] * 400 + [1] * 200 + [2] * 100
    images = known_images([f"patient-{index}" for index in range(700)], labels)
    parts = data.split(images, (0.7, 0.15, 0.15), seed=1)
    for label, count in ((0, 60), (1, 30), (2, 15)):
        assert np.count_nonzero((parts == "test") & (images.labels == label)) == pytest.approx(count, abs=1)


def test_the_split_does_not_hang_on_the_order_of_the_manifest() -> None:
    images = known_images([f"patient-{index}" for index in range(100)], [index % 4 for index in range(100)])
    order = np.random.default_rng(0).permutation(100)
    shuffled = data.Images(**{name: values[order] for name, values in vars(images).items()})
    shares = (0.7, 0.15, 0.15)
    np.testing.assert_array_equal(data.split(images, shares, 1)[order], data.split(shuffled, shares, 1))


def test_the_digest_names_images_labels_and_parts() -> None:
    images = known_images(["a", "b"], [0, 1])
    relabelled = known_images(["a", "b"], [0, 2])
    parts, moved = np.array(["train", "test"]), np.array(["test", "test"])
    digests = {data.digest(images, parts), data.digest(relabelled, parts), data.digest(images, moved)}
    assert len(digests) == 3
    assert data.digest(images, parts) == data.digest(known_images(["a", "b"], [0, 1]), parts)


def test_radiographs_come_as_the_network_s_input(collection: Path) -> None:
    images = data.radiographs(collection, collection / "manifest.csv")
    assert images.pixels.shape == (16, 224, 224)
    assert images.pixels.dtype == np.uint8
    assert [LABELS[label] for label in images.labels[:4]] == list(LABELS)


def test_real_radiographs_come_from_their_manifest(shared_data: Path, tmp_path: Path) -> None:
    everything = (shared_data / "cxr" / "manifest.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(everything[:1] + everything[1::200]))
    images = data.radiographs(shared_data / "cxr", tmp_path / "some.csv")
    assert len(images) == 10
    assert images.pixels.std(axis=(1, 2)).min() > 20


def test_kept_images_come_back(collection: Path, tmp_path: Path) -> None:
    images = data.radiographs(collection, collection / "manifest.csv")
    data.save(images, tmp_path / "images.npz")
    for name, values in vars(data.load(tmp_path / "images.npz")).items():
        np.testing.assert_array_equal(values, getattr(images, name))


def test_the_recipe_of_the_first_network_can_be_read() -> None:
    first = recipe.read(FIRST)
    assert first.steps == first.steps_per_epoch * sum(stage.epochs for stage in first.stages)
    assert first.stages[-1].validation_size_px == 224


def test_a_recipe_with_a_misspelt_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(FIRST.read_text().replace("learning_rate", "lerning_rate"))
    with pytest.raises(TypeError, match="lerning_rate"):
        recipe.read(tmp_path / "recipe.toml")


def test_classes_are_drawn_evenly_and_phantoms_as_often_as_wished() -> None:
    from training.train import weights

    first = recipe.read(FIRST)
    labels = [0, 1, 2, 3, 3, 3] + [0] * 70 + [1] * 20 + [2] * 6 + [3] * 4
    images = known_images([f"patient-{index}" for index in range(106)], labels)
    images.sources[:6] = data.PHANTOM
    chances = weights(first, images)
    chances /= chances.sum()
    assert chances[:6].sum() == pytest.approx(first.phantom_share)
    for label in range(4):
        assert chances[images.labels == label].sum() == pytest.approx(0.25)


def test_augmented_images_keep_their_range_and_look_alike() -> None:
    from training.train import augment

    torch.manual_seed(0)
    drawn = data.phantoms([3]).pixels[0]
    gray = torch.from_numpy(drawn).float().expand(16, 1, -1, -1)
    changed = augment(gray)
    assert changed.shape == gray.shape
    assert 0 <= changed.min() <= changed.max() <= 255
    assert len({round(float(one.mean()), 3) for one in changed}) == 16


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    from training.train import rate

    first = recipe.read(FIRST)
    rates = [rate(first, step) for step in range(first.steps)]
    assert max(rates) == pytest.approx(first.learning_rate, rel=0.01)
    assert rates[0] == 0
    assert rates[-1] < first.learning_rate / 100


def test_a_missing_teacher_says_what_to_install() -> None:
    from training.teacher import TEACHERS

    if "efficientnet-lite0" in TEACHERS and _is_installed("efficientnet_lite_pytorch"):
        pytest.skip("the teacher is installed")
    with pytest.raises(HilumError, match="pip install"):
        TEACHERS["efficientnet-lite0"]()


def _is_installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_training_ends_with_an_artefact_that_reads_and_goes_on_where_it_stopped(
    collection: Path, tmp_path: Path
) -> None:
    from training.train import train

    (tmp_path / "recipe.toml").write_text(TINY.format(epochs=1))
    manifest = collection / "manifest.csv"
    folder = train(tmp_path / "recipe.toml", collection, manifest, tmp_path / "out")
    artefact = load_artefact(folder)
    assert artefact.manifest["recipe"] == tomllib.loads(TINY.format(epochs=1))
    assert artefact.manifest["metrics"]["radiographs"]["images"] == 4
    assert "| phantoms | 8 |" in (folder / "MODEL_CARD.md").read_text()
    assert choose_engine(artefact, "cpu").read(data.phantoms([7]).pixels).probabilities.shape == (1, 4)

    last_epoch = (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns
    again = load_artefact(train(tmp_path / "recipe.toml", collection, manifest, tmp_path / "out"))
    assert again.manifest["sha256"] == artefact.manifest["sha256"]
    assert (tmp_path / "out" / "checkpoint.pt").stat().st_mtime_ns == last_epoch


def test_a_network_learns_to_tell_phantoms_apart(tmp_path: Path) -> None:
    from training.train import begin, learn

    images = data.phantoms(range(8))
    images.sources[4:] = "somewhere"
    (tmp_path / "recipe.toml").write_text(TINY.format(epochs=2))
    tiny = replace(recipe.read(tmp_path / "recipe.toml"), images_per_epoch=160, batch_size=8)
    learner = begin(tiny)
    learn(tiny, learner, images, images, tmp_path / "checkpoint.pt")
    losses = [entry["loss"] for entry in learner.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1.2  # guessing is 1.386
