"""The network: its architecture and its artefact, one folder that says all about one version.

An artefact holds `weights.safetensors` (every tensor once), `graph.onnx` (the same network as a graph
whose tensors are offsets into the weights file), `strangeness.safetensors` (what it knows, see
`hilum.strangeness`) and `manifest.json`. Nothing here needs torch, except what speaks of it: `build`,
`load_network`, `normalise` and `save_artefact`.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hilum import strangeness as strangenesses
from hilum.errors import NetworkError
from hilum.radiograph import INPUT_SIZE, PREPROCESSING
from hilum.strangeness import Strangeness

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models import ResNet

ARCHITECTURE = "resnet50-512-4"
LABELS = ("Normal", "Pneumonia", "COVID-19", "Other")
MEAN = (0.485, 0.456, 0.406)
"""ImageNet's, per channel, of values in [0, 1]; the one gray channel is repeated three times."""
STD = (0.229, 0.224, 0.225)

WEIGHTS, GRAPH, MANIFEST = "weights.safetensors", "graph.onnx", "manifest.json"
STRANGENESS = "strangeness.safetensors"
_BLOCKS = (3, 4, 6, 3)  # bottlenecks in each of ResNet50's four layers
_NOT_KEPT = "num_batches_tracked"
_REFUSED = "Put a complete artefact there, as `hilum train` writes it, or use the one that Hilum ships."


@dataclass(frozen=True)
class Head:
    """What comes after global average pooling: Linear - ReLU - Linear (dropout does nothing when reading)."""

    first_weight: NDArray[np.float32]
    """(512, 2048)"""
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
    labels: tuple[str, ...]
    preprocessing: str
    temperature: float
    """Logits are divided by it before softmax."""
    manifest: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    def head(self) -> Head:
        names = ("fc.1.weight", "fc.1.bias", "fc.4.weight", "fc.4.bias")
        return Head(*_tensors(self.weights, names))

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
        If a file is missing or altered, or the network has another architecture, other labels or another
        preprocessing than this version of Hilum. The text says which.
    """
    manifest = _manifest(folder)
    ours = {"architecture": ARCHITECTURE, "labels": list(LABELS), "preprocessing": PREPROCESSING}
    for name, expected in ours.items():
        if manifest.get(name) != expected:
            raise NetworkError(
                f"The network in {folder} has {name} {manifest.get(name)!r}; "
                f"this version of Hilum reads with {expected!r}. {_REFUSED}"
            )
    try:
        described = dict(manifest["sha256"])
        artefact = Artefact(
            folder=folder,
            version=str(manifest["version"]),
            digest=manifest["digest"],
            labels=LABELS,
            preprocessing=PREPROCESSING,
            temperature=float(manifest["temperature"]),
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkError(f"{folder / MANIFEST} lacks something: {error}. {_REFUSED}") from error
    for name in (WEIGHTS, GRAPH, STRANGENESS):
        if _sha256(folder / name) != described.get(name):
            raise NetworkError(f"{folder / name} is not the file that its manifest describes. {_REFUSED}")
    return artefact


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


def _tensors(weights: Path, names: tuple[str, ...]) -> list[NDArray[np.float32]]:
    try:
        with safe_open(weights, framework="numpy") as file:
            return [file.get_tensor(name).astype(np.float32) for name in names]
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{weights} lacks a tensor: {error}. {_REFUSED}") from error


def build() -> "ResNet":
    """Return the network in torch with random weights: torchvision's ResNet50 with Hilum's head."""
    from torch import nn
    from torchvision.models import resnet50

    network = resnet50(zero_init_residual=True)
    network.fc = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, len(LABELS))
    )
    return network


def load_network(artefact: Artefact) -> "ResNet":
    """Return the network in torch, float32, with an artefact's weights.

    Raises NetworkError when one is missing or of another shape.
    """
    from safetensors.torch import load_file

    network = build()
    tensors = load_file(artefact.weights)
    # how many batches were seen is not kept: it plays no part once training is over
    kept = [name for name in network.state_dict() if not name.endswith(_NOT_KEPT)]
    try:
        network.load_state_dict({name: tensors[name] for name in kept}, strict=False)
    except (KeyError, RuntimeError) as error:
        raise NetworkError(f"{artefact.weights} is not all of the network: {error}. {_REFUSED}") from error
    return network


def normalise(gray: "Tensor") -> "Tensor":
    """Return the network's float input (B, 3, H, W), channels last, of gray (B, 1, H, W) in 0..255."""
    import torch

    mean = torch.tensor(MEAN, device=gray.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=gray.device).view(1, 3, 1, 1)
    return ((gray / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def save_artefact(
    folder: Path,
    network: "ResNet",
    strangeness: Strangeness,
    *,
    version: str,
    temperature: float,
    described: Mapping[str, Any],
    created: datetime,
) -> Artefact:
    """Return the artefact of a trained network, written to a folder.

    Convolutions and linear layers are kept as float16, batch normalisation (whose variances float16 cannot
    hold) as float32. `described` goes into the manifest as it is: metrics, data digest, licence.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, value in network.state_dict().items():
        if not name.endswith(_NOT_KEPT):
            is_large = value.ndim > 1 or name.startswith("fc.")
            tensors[name] = value.detach().cpu().to(torch.float16 if is_large else torch.float32).contiguous()
    save_file(tensors, folder / WEIGHTS)
    (folder / GRAPH).write_bytes(_graph(folder / WEIGHTS))
    (folder / STRANGENESS).write_bytes(strangeness.content())
    manifest: dict[str, Any] = {
        **described,
        "version": version,
        "architecture": ARCHITECTURE,
        "labels": list(LABELS),
        "preprocessing": PREPROCESSING,
        "temperature": temperature,
        "created": created.isoformat(),
        "sha256": {name: _sha256(folder / name) for name in (WEIGHTS, GRAPH, STRANGENESS)},
    }
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return load_artefact(folder)


def _graph(weights: Path) -> bytes:
    """Return the network as ONNX.

    In: images (B, 224, 224) uint8. Out: logits (B, 4) and features (B, 2048, 7, 7).
    """
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    gray = graph.node("Cast", "images", to=TensorProto.FLOAT)
    gray = graph.node("Unsqueeze", gray, graph.constant([1], TensorProto.INT64))
    scale, offset = 255 * np.array(STD), 255 * np.array(MEAN)
    value = graph.node("Sub", gray, graph.constant(offset.reshape(1, 3, 1, 1), TensorProto.FLOAT))
    value = graph.node("Div", value, graph.constant(scale.reshape(1, 3, 1, 1), TensorProto.FLOAT))
    value = graph.node("Relu", graph.convolution(value, "conv1", "bn1", stride=2))
    value = graph.node("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for layer, blocks in enumerate(_BLOCKS, start=1):
        for block in range(blocks):
            value = graph.bottleneck(value, f"layer{layer}.{block}", layer, block)
    graph.node("Identity", value, output="features")
    value = graph.node("Flatten", graph.node("GlobalAveragePool", value))
    value = graph.node("Relu", graph.linear(value, "fc.1"))
    graph.node("Identity", graph.linear(value, "fc.4"), output="logits")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            ARCHITECTURE,
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", INPUT_SIZE, INPUT_SIZE])],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(LABELS)]),
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", 2048, 7, 7]),
            ],
            graph.initialisers,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


class _Graph:
    """An ONNX graph in the making, its tensors lying in a safetensors file."""

    def __init__(self, weights: Path) -> None:
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))  # the format: a length, that much JSON, the data
            self._header: dict[str, Any] = json.loads(file.read(length))
        self._data_starts_at = 8 + length

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, kind: int) -> str:
        from onnx import helper

        values, name = np.asarray(values), f"constant_{len(self.initialisers)}"
        self.initialisers.append(helper.make_tensor(name, kind, values.shape, values.ravel()))
        return name

    def tensor(self, name: str) -> str:
        """Return the name of a float32 value: a tensor of the weights file, cast if kept as float16."""
        from onnx import TensorProto

        entry = self._header[name]
        kept = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}[entry["dtype"]]
        start, end = entry["data_offsets"]
        place = {"location": WEIGHTS, "offset": self._data_starts_at + start, "length": end - start}
        initialiser = TensorProto(
            name=name, data_type=kept, dims=entry["shape"], data_location=TensorProto.EXTERNAL
        )
        for key, value in place.items():
            initialiser.external_data.add(key=key, value=str(value))
        self.initialisers.append(initialiser)
        return name if kept == TensorProto.FLOAT else self.node("Cast", name, to=TensorProto.FLOAT)

    def convolution(self, value: str, conv: str, norm: str, stride: int = 1) -> str:
        size = self._header[f"{conv}.weight"]["shape"][-1]
        around = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
        value = self.node("Conv", value, self.tensor(f"{conv}.weight"), output="", **around)
        parts = [self.tensor(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        return self.node("BatchNormalization", value, *parts, epsilon=1e-5)

    def bottleneck(self, value: str, name: str, layer: int, block: int) -> str:
        stride = 2 if layer > 1 and block == 0 else 1
        inner = self.node("Relu", self.convolution(value, f"{name}.conv1", f"{name}.bn1"))
        inner = self.node("Relu", self.convolution(inner, f"{name}.conv2", f"{name}.bn2", stride))
        inner = self.convolution(inner, f"{name}.conv3", f"{name}.bn3")
        if block == 0:
            value = self.convolution(value, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return self.node("Relu", self.node("Add", inner, value))

    def linear(self, value: str, name: str) -> str:
        return self.node("Gemm", value, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), transB=1)
