"""From torch to the graph that every engine reads: ONNX, its tensors lying in the artefact's weights file."""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum.engine import openvino_core
from hilum.errors import NetworkError
from hilum.network import features, head_of, normalise, pooled
from hilum.radiograph import INPUT_SIZE

if TYPE_CHECKING:
    import onnx_ir

MAX_DIFFERENCE = 1e-3
"""Most that a logit of the graph may be away from torch's, in parts of the largest one.

Both compute in float32 with the same weights, in another order, which puts each of a hundred layers some 1e-6
away at worst. One layer that is not the same (a stride, an epsilon, an activation) moves logits by far more.
What rounding weights to float16 does is no part of it; the manifest states it beside.
"""
_COARSENESS_PX = (224, 112, 28, 7, 1)


class _Network(nn.Module):
    """What the graph says: images (B, 224, 224) uint8 in; logits (B, 4) and features out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # channels first: of channels last the exporter makes many small nodes about strides
        gray = normalise(images[:, None].float()).contiguous(memory_format=torch.contiguous_format)
        maps = features(self.network, gray)
        return head_of(self.network)(pooled(maps)), maps


class _OfKept(nn.Module):
    """The same with its tensors as inputs, as they are kept: the exporter then leaves them alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (_Network(network),)  # in a tuple, so that its tensors are not this module's

    def forward(self, images: Tensor, kept: dict[str, Tensor]) -> Any:
        tensors = {f"network.{name}": tensor.float() for name, tensor in kept.items()}
        return torch.func.functional_call(self._network[0], tensors, (images,))


def rounded(tensor: Tensor) -> Tensor:
    """Return a tensor as it is kept: float16 if it has more than one dimension, else float32.

    Raises NetworkError where it then holds what is no finite number.
    """
    kept = tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32).contiguous()
    if not bool(kept.isfinite().all()):
        raise NetworkError(
            "The network's weights are not finite numbers that float16 can hold: its training went wrong. "
            "Train with a lower learning rate."
        )
    return kept


def patterns() -> NDArray[np.uint8]:
    """Return images (B, 224, 224) to compare engines on: even gray, coarse and fine patches, noise."""
    rng = np.random.default_rng(0)
    sides = [INPUT_SIZE // size for size in _COARSENESS_PX]
    drawn = [rng.integers(0, 256, (side, side), dtype=np.uint8) for side in sides]
    return np.stack([np.kron(one, np.ones([INPUT_SIZE // len(one)] * 2, np.uint8)) for one in drawn])


@torch.inference_mode()
def logits(network: nn.Module) -> NDArray[np.float32]:
    """Return what a network in torch says of `patterns`, (B, 4)."""
    said: Tensor = _Network(network)(torch.from_numpy(patterns()))[0]
    return said.numpy()


@torch.inference_mode()
def features_shape(network: nn.Module) -> list[int]:
    """Return the shape of one image's features: [C, h, w], or [C] where there is no map."""
    return list(_Network(network)(torch.from_numpy(patterns()[:1]))[1].shape[1:])


def graph(network: nn.Module, weights: Path) -> bytes:
    """Return a network as ONNX, for any number of images; its tensors lie in the safetensors file."""
    lying, state = tensors_of(weights), network.state_dict()
    model = _exported(network, {name: rounded(state[name]) for name in lying})
    for tensor, value in zip(lying.values(), list(model.graph.inputs)[1:], strict=True):
        value.const_value = tensor
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return _plain(model)


def tensors_of(weights: Path) -> "dict[str, onnx_ir.ExternalTensor]":
    """Return where each tensor of a safetensors file lies in it."""
    import onnx_ir

    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))  # the format: a length, that much JSON, the data
        header: dict[str, Any] = json.loads(file.read(length))
    kinds = {"F16": onnx_ir.DataType.FLOAT16, "F32": onnx_ir.DataType.FLOAT}
    lying = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        shape, offset = onnx_ir.Shape(entry["shape"]), 8 + length + start
        lying[name] = onnx_ir.ExternalTensor(
            weights.name, offset, end - start, kinds[entry["dtype"]], shape=shape, name=name
        )
    return lying


def _exported(network: nn.Module, kept: dict[str, Tensor]) -> "onnx_ir.Model":
    images = torch.from_numpy(patterns()[:2])
    program: Any = torch.onnx.export(
        _OfKept(network).eval(),
        (images,),
        kwargs={"kept": kept},
        dynamo=True,
        verbose=False,
        input_names=["images", *kept],
        output_names=["logits", "features"],
        dynamic_shapes={"images": {0: torch.export.Dim("B")}, "kept": dict.fromkeys(kept)},
    )
    return cast("onnx_ir.Model", program.model)


def _plain(model: "onnx_ir.Model") -> bytes:
    """Return a model without notes on where in the code its nodes come from."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *made):
        value.metadata_props.clear()
    return bytes(onnx_ir.to_proto(model).SerializeToString(deterministic=True))


def check(graph: Path, network: nn.Module, trained: NDArray[np.float32]) -> dict[str, Any]:
    """Return how far logits of `patterns` moved on the way from `trained`, the network's before rounding.

    Raises NetworkError when the graph's are not the network's, see `MAX_DIFFERENCE`.
    """
    expected = logits(network)
    core = openvino_core()
    compiled = core.compile_model(
        core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"}
    )
    difference = float(np.abs(compiled([patterns()])["logits"] - expected).max())
    if not difference <= MAX_DIFFERENCE * float(np.abs(expected).max()):
        raise NetworkError(
            f"The graph's logits are {difference:.2g} away from torch's: this version of torch cannot export "
            "this backbone. Install the versions that constraints.txt names, or train another backbone."
        )
    return {
        "max_abs_difference": difference,
        "max_abs_difference_by_rounding": float(np.abs(expected - trained).max()),
        "images": len(expected),
    }
