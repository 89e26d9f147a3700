"""Weights to begin a training with, from wherever a hospital has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import mobilenet_v3_small, resnet18

from hilum.errors import NetworkError
from hilum.network import build, head_of
from tests.unit.artefacts import random_network, untrained

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def of_torchvision() -> Tensors:
    torch.manual_seed(1)
    return dict(resnet18(weights=None).state_dict())


def saved(tensors: object, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(tensors, file)  # type: ignore[arg-type]
    else:
        torch.save(tensors, file)
    return file


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_gives_the_backbone_and_leaves_the_head(
    of_torchvision: Tensors, tmp_path: Path, name: str
) -> None:
    built = build("resnet18", saved(of_torchvision, tmp_path / name)).state_dict()
    for tensor in ("conv1.weight", "layer4.1.bn2.running_var"):
        assert torch.equal(built[tensor], of_torchvision[tensor])
    assert built["fc.1.weight"].shape == (512, 512)


def test_an_artefact_gives_the_head_too(tmp_path: Path) -> None:
    built = head_of(build("resnet18", untrained(tmp_path, "resnet18"))).state_dict()
    made = head_of(random_network("resnet18")).state_dict()
    assert torch.equal(built["4.weight"], made["4.weight"].half().float())


def test_a_head_for_other_classes_is_left_out_as_a_whole(tmp_path: Path) -> None:
    other = random_network("resnet18").state_dict()
    other["fc.4.weight"], other["fc.4.bias"] = torch.ones(2, 512), torch.ones(2)
    built = build("resnet18", saved(other, tmp_path / "weights.pth")).state_dict()
    assert not torch.equal(built["fc.1.weight"], other["fc.1.weight"])
    assert torch.equal(built["conv1.weight"], other["conv1.weight"])


def test_weights_of_a_deeper_network_are_refused_though_all_is_there(tmp_path: Path) -> None:
    deeper = dict(resnet18(weights=None).state_dict())
    deeper["layer4.2.conv1.weight"] = torch.ones(512, 512, 3, 3)
    with pytest.raises(NetworkError, match=r"not of a resnet18: layer4\.2\.conv1\.weight"):
        build("resnet18", saved(deeper, tmp_path / "weights.pth"))


def test_weights_of_another_backbone_are_refused_by_the_name_of_one(tmp_path: Path) -> None:
    other = mobilenet_v3_small(weights=None).state_dict()
    with pytest.raises(NetworkError, match=r"not of a resnet18: conv1\.weight"):
        build("resnet18", saved(other, tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_that_are_no_numbers_are_refused(of_torchvision: Tensors, tmp_path: Path, name: str) -> None:
    broken = {**of_torchvision, "bn1.weight": torch.full((64,), torch.nan)}
    with pytest.raises(NetworkError, match="finite"):
        build("resnet18", saved(broken, tmp_path / name))


class Runs:
    """A pickle of it would run a program."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_file_that_would_run_a_program_is_refused_and_runs_none(tmp_path: Path) -> None:
    file = saved(Runs(tmp_path / "ran"), tmp_path / "weights.pth")
    with pytest.raises(NetworkError, match="state_dict"):
        build("resnet18", file)
    assert not (tmp_path / "ran").exists()


def test_a_whole_checkpoint_is_refused_with_what_to_save(of_torchvision: Tensors, tmp_path: Path) -> None:
    file = saved({"model": of_torchvision, "epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(NetworkError, match="Save the state_dict"):
        build("resnet18", file)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100])
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NetworkError, match="state_dict"):
        build("resnet18", tmp_path / name)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetworkError, match="cannot be read: No such file"):
        build("resnet18", tmp_path / name)


def test_a_folder_that_is_no_artefact_is_told(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="There is no network in"):
        build("resnet18", tmp_path)


def test_a_download_is_kept_where_torch_keeps_its_own(
    of_torchvision: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    saved(of_torchvision, cache / "resnet18-f37072fd.pth")
    built = build("resnet18", "download").state_dict()
    assert torch.equal(built["conv1.weight"], of_torchvision["conv1.weight"])


def test_without_internet_one_is_told_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # discard: nobody listens there
    with pytest.raises(NetworkError, match=r"Fetch https://download\.pytorch\.org/\S+ on a"):
        build("resnet18", "download")


@pytest.mark.parametrize(
    "backbone", ["resnet", "ResNet50", "inception_v3", "vgg16", "fcn_resnet50", "../resnet18"]
)
def test_a_backbone_that_cannot_be_used_is_refused_with_those_that_can(backbone: str) -> None:
    with pytest.raises(NetworkError, match="MobileNet"):
        build(backbone)
