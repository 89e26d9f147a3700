"""The network: its architecture and its artefact, one folder that says all about one version.

An artefact holds `weights.safetensors` (every tensor once), `graph.onnx` (the same network as a graph
whose tensors are offsets into the weights file), `strangeness.safetensors` (what it knows, see
`hilum.strangeness`), files that others add, and `manifest.json`, which names each with its SHA-256. Nothing
here needs torch, except what speaks of it: `build`, `features`, `head_of`, `load_network`, `normalise` and
`save_artefact`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hilum import strangeness as strangenesses
from hilum.errors import NetworkError
from hilum.radiograph import PREPROCESSING
from hilum.strangeness import Strangeness

if TYPE_CHECKING:
    from torch import Tensor, nn

BACKBONE = "resnet50"
LABELS = ("Normal", "Pneumonia", "COVID-19", "Other")
MEAN = (0.485, 0.456, 0.406)
"""ImageNet's, per channel, of values in [0, 1]; the one gray channel is repeated three times."""
STD = (0.229, 0.224, 0.225)
HIDDEN = 512
"""Width of the head's hidden layer."""

WEIGHTS, GRAPH, MANIFEST = "weights.safetensors", "graph.onnx", "manifest.json"
STRANGENESS = "strangeness.safetensors"
_ARCHITECTURE = re.compile(rf"([a-z0-9_]+)-{HIDDEN}-{len(LABELS)}")
_RESNET = "torchvision.models.resnet"
_HEADS = {  # torchvision's modules of networks that can be used, and what their classifier is called
    _RESNET: "fc",
    "torchvision.models.densenet": "classifier",
    "torchvision.models.efficientnet": "classifier",
    "torchvision.models.mobilenetv2": "classifier",
    "torchvision.models.mobilenetv3": "classifier",
    "torchvision.models.vision_transformer": "heads",
}
_NOT_KEPT = "num_batches_tracked"
_REFUSED = "Put a complete artefact there, as `hilum train` writes it, or use the one that Hilum ships."
_USABLE = (
    "Use one of torchvision's ResNet, ResNeXt, Wide ResNet, DenseNet, MobileNet, EfficientNet or ViT, by its "
    "name there: resnet50, densenet121, mobilenet_v3_small, vit_b_16, ..."
)

Array = TypeVar("Array", NDArray[np.float32], "Tensor")


@dataclass(frozen=True)
class Head:
    """What comes after global average pooling: Linear - ReLU - Linear (dropout does nothing when reading)."""

    first_weight: NDArray[np.float32]
    """(512, C)"""
    first_bias: NDArray[np.float32]
    second_weight: NDArray[np.float32]
    """(4, 512)"""
    second_bias: NDArray[np.float32]


@dataclass(frozen=True)
class Artefact:
    """A checked artefact."""

    folder: Path
    version: str
    digest: str
    """SHA-256 that covers the manifest and, through it, weights and graph."""
    backbone: str
    """torchvision's name of what lies below the head."""
    labels: tuple[str, ...]
    preprocessing: str
    temperature: float
    """Logits are divided by it before softmax."""
    has_map: bool
    """Whether its features are a map, so that there can be a heat map; a ViT's are not."""
    manifest: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    def head(self) -> Head:
        return Head(*_head_tensors(self.weights))

    def strangeness(self) -> Strangeness:
        return strangenesses.load(self.folder / STRANGENESS)


def shipped() -> Path:
    """Return the folder of the artefact that comes with Hilum."""
    return Path(__file__).parent / "shipped"


def load_artefact(folder: Path) -> Artefact:
    """Return the artefact in a folder, after every check.

    Raises
    ------
    NetworkError
        If a file is missing or altered, or the network has another head, other labels or another
        preprocessing than this version of Hilum. The text says which.
    """
    manifest = _manifest(folder)
    backbone = _backbone(folder, manifest)
    _check_fit(folder, manifest)
    try:
        described = dict(manifest["sha256"])
        artefact = Artefact(
            folder=folder,
            version=str(manifest["version"]),
            digest=manifest["digest"],
            backbone=backbone,
            labels=LABELS,
            preprocessing=PREPROCESSING,
            temperature=_positive(manifest["temperature"]),
            has_map=len(manifest.get("features", "CHW")) == 3,  # the first did not say: all are ResNets
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkError(f"{folder / MANIFEST} lacks something: {error}. {_REFUSED}") from error
    for name in {WEIGHTS, GRAPH, STRANGENESS, *described}:
        if Path(name).name != name or _sha256(folder / name) != described.get(name):
            raise NetworkError(f"{folder / name} is not the file that its manifest describes. {_REFUSED}")
    return artefact


def _backbone(folder: Path, manifest: Mapping[str, Any]) -> str:
    matched = _ARCHITECTURE.fullmatch(str(manifest.get("architecture")))
    if matched is None:
        raise NetworkError(
            f"The network in {folder} has architecture {manifest.get('architecture')!r}; "
            f"this version of Hilum reads with those like {architecture(BACKBONE)!r}. {_REFUSED}"
        )
    return matched[1]


def architecture(backbone: str) -> str:
    return f"{backbone}-{HIDDEN}-{len(LABELS)}"


def _check_fit(folder: Path, manifest: Mapping[str, Any]) -> None:
    ours = {"labels": list(LABELS), "preprocessing": PREPROCESSING}
    for name, expected in ours.items():
        if manifest.get(name) != expected:
            raise NetworkError(
                f"The network in {folder} has {name} {manifest.get(name)!r}; "
                f"this version of Hilum reads with {expected!r}. {_REFUSED}"
            )


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"a temperature is positive, not {number}")
    return number


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        described = {name: value for name, value in manifest.items() if name != "digest"}
    except OSError as error:
        raise NetworkError(f"There is no network in {folder}: {error.strerror}. {_REFUSED}") from error
    except (ValueError, AttributeError) as error:
        raise NetworkError(f"{folder / MANIFEST} is not a manifest. {_REFUSED}") from error
    if manifest.get("digest") != _digest(described):
        raise NetworkError(f"{folder / MANIFEST} was altered after it was written. {_REFUSED}")
    return dict(manifest)


def _digest(described: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise NetworkError(f"{file} cannot be read: {error.strerror}. {_REFUSED}") from error


def _head_tensors(weights: Path) -> list[NDArray[np.float32]]:
    try:
        with safe_open(weights, framework="numpy") as file:
            kept = set(file.keys())
            head = next((name for name in _HEADS.values() if f"{name}.4.bias" in kept), _HEADS[_RESNET])
            names = (f"{head}.{part}" for part in ("1.weight", "1.bias", "4.weight", "4.bias"))
            return [file.get_tensor(name).astype(np.float32) for name in names]
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{weights} lacks a tensor: {error}. {_REFUSED}") from error


def build(backbone: str = BACKBONE, weights: str | Path = "random") -> "nn.Module":
    """Return a network in torch, float32: torchvision's of that name, with Hilum's head for its classifier.

    `weights` is "random", "download" (torchvision's own of ImageNet), a file (safetensors, or a .pth of
    tensors alone, with torchvision's names) or the folder of an artefact. Of these the backbone's tensors are
    taken, and the head's where they fit; else the head is random.

    Raises
    ------
    NetworkError
        If there is no such backbone or it cannot be used, or the weights cannot be had or are of another.
    """
    from torch import nn
    from torchvision.models import get_model, get_model_builder, list_models

    if backbone not in list_models() or get_model_builder(backbone).__module__ not in _HEADS:
        raise NetworkError(f"There is no backbone {backbone!r} that Hilum can use. {_USABLE}")
    settled = {"zero_init_residual": True} if get_model_builder(backbone).__module__ == _RESNET else {}
    network = cast("nn.Module", get_model(backbone, weights=None, **settled))
    classifier = network.get_submodule(_head_name(network))
    width = next(layer.in_features for layer in classifier.modules() if isinstance(layer, nn.Linear))
    head = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, len(LABELS))
    )
    setattr(network, _head_name(network), head)
    if weights != "random":
        from hilum import pretrained

        pretrained.put_into(network, backbone, weights, head=_head_name(network))
    return network


def _head_name(network: "nn.Module") -> str:
    try:
        return _HEADS[type(network).__module__]
    except KeyError as error:
        raise NetworkError(f"A {type(network).__name__} cannot be used. {_USABLE}") from error


def head_of(network: "nn.Module") -> "nn.Sequential":
    """Return the head: it makes logits (B, 4) of pooled features (B, C)."""
    return cast("nn.Sequential", network.get_submodule(_head_name(network)))


def features(network: Any, images: "Tensor") -> "Tensor":
    """Return a network's features of normalised images (B, 3, H, W), before they are pooled.

    (B, C, h, w); of a ViT, which has no such map and takes 224 x 224 only, (B, C).
    """
    import torch

    family = type(network).__module__
    if family == _RESNET:
        value = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        return cast("Tensor", network.layer4(network.layer3(network.layer2(network.layer1(value)))))
    if family == "torchvision.models.vision_transformer":
        patches = network._process_input(images)
        tokens = torch.cat([network.class_token.expand(images.shape[0], -1, -1), patches], dim=1)
        return cast("Tensor", network.encoder(tokens)[:, 0])
    value = network.features(images)
    return torch.relu(value) if family == "torchvision.models.densenet" else value


def pooled(maps: Array) -> Array:
    """Return features as the head takes them, (B, C): maps (B, C, h, w) averaged, others as they are."""
    return maps.mean((2, 3)) if maps.ndim == 4 else maps


def load_network(artefact: Artefact) -> "nn.Module":
    """Return the network in torch, float32, with an artefact's weights.

    Raises NetworkError when one is missing or of another shape.
    """
    from safetensors.torch import load_file

    network = build(artefact.backbone)
    tensors = load_file(artefact.weights)
    try:
        network.load_state_dict({name: tensors[name] for name in _kept_names(network)}, strict=False)
    except (KeyError, RuntimeError) as error:
        raise NetworkError(f"{artefact.weights} is not all of the network: {error}. {_REFUSED}") from error
    return network


def _kept_names(network: "nn.Module") -> list[str]:
    """Names of the tensors of an artefact; how many batches were seen plays no part once training is over."""
    return [name for name in network.state_dict() if not name.endswith(_NOT_KEPT)]


def normalise(gray: "Tensor") -> "Tensor":
    """Return the network's float input (B, 3, H, W), channels last, of gray (B, 1, H, W) in 0..255."""
    import torch

    mean = torch.tensor(MEAN, device=gray.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=gray.device).view(1, 3, 1, 1)
    return ((gray / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def save_artefact(
    folder: Path,
    network: "nn.Module",
    backbone: str,
    strangeness: Strangeness,
    *,
    version: str,
    temperature: float,
    described: Mapping[str, Any],
    created: datetime,
) -> Artefact:
    """Return the artefact of a trained network, written to a folder.

    Kernels and matrices are kept as float16, vectors (variances among them, which float16 cannot hold) as
    float32. `described` goes into the manifest as it is: metrics, data digest, licence. The manifest's
    `export` tells how far logits moved, by the graph and by the rounding.

    Raises
    ------
    NetworkError
        If weights are no finite numbers, or the graph does not say what the network says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exported = _write_network(folder, network, backbone)
    (folder / STRANGENESS).write_bytes(strangeness.content())
    _write_manifest(
        folder,
        {
            **described,
            **exported,
            "version": version,
            "architecture": architecture(backbone),
            "labels": list(LABELS),
            "preprocessing": PREPROCESSING,
            "temperature": temperature,
            "created": created.isoformat(),
            "sha256": {name: _sha256(folder / name) for name in (WEIGHTS, GRAPH, STRANGENESS)},
        },
    )
    return load_artefact(folder)


def _write_network(folder: Path, network: "nn.Module", backbone: str) -> dict[str, Any]:
    """Write weights and graph; return what the manifest says of them."""
    from safetensors.torch import save

    from hilum import export

    copy = build(backbone).eval()
    copy.load_state_dict(network.state_dict())
    trained = export.logits(copy)
    kept = {name: export.rounded(copy.state_dict()[name]) for name in _kept_names(copy)}
    copy.load_state_dict(kept, strict=False)
    _write(folder / WEIGHTS, save(kept))  # of a full disk safetensors does not tell in words
    (folder / GRAPH).write_bytes(export.graph(copy, folder / WEIGHTS))
    return {
        "features": export.features_shape(copy),
        "export": export.check(folder / GRAPH, copy, trained),
    }


def add_file(artefact: Artefact, name: str, content: bytes, described: Mapping[str, Any]) -> Artefact:
    """Return the artefact with one more file, or with another content of one that it has.

    `described` is put into the manifest. With its digest the artefact becomes another one.
    """
    _write(artefact.folder / name, content)
    digests = {**artefact.manifest["sha256"], name: hashlib.sha256(content).hexdigest()}
    return describe(artefact, {**described, "sha256": digests})


def describe(artefact: Artefact, described: Mapping[str, Any]) -> Artefact:
    """Return the artefact with this put into its manifest. With its digest it becomes another one."""
    _write_manifest(artefact.folder, {**artefact.manifest, **described})
    return load_artefact(artefact.folder)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    described = {name: value for name, value in manifest.items() if name != "digest"}
    text = json.dumps({**described, "digest": _digest(described)}, indent=1, sort_keys=True) + "\n"
    _write(folder / MANIFEST, text.encode())


def _write(file: Path, content: bytes) -> None:
    aside = file.with_name(f"{file.name}.new")
    aside.write_bytes(content)
    aside.replace(file)
