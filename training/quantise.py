"""Int8: a third file for an artefact, the same network with 8-bit convolutions for the processor.

Post-training static quantisation by ONNX Runtime: 8-bit activations with ranges seen on calibration images,
8-bit weights per channel. The weights are not kept a second time: the graph takes those of the artefact's
weights file, and what rounds them to 8 bits stands in the graph, for the engine to do once when it loads.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hilum.engine import INT8_GRAPH, Engine, OnnxRuntimeEngine, OpenVinoEngine, Reading
from hilum.network import Artefact, add_file, describe
from training import agreement
from training.data import PHANTOM, Images

MOST_LOST_POINTS = 0.5
"""Percentage points of accuracy that int8 may cost; a graph that costs more is not added."""
_IN_INT8 = ["Add", "Clip", "Conv", "Gemm", "MatMul", "MaxPool", "Relu"]
_PREPARED = (
    "onnx.quant.pre_process",
    "onnxruntime.quant",
)  # ONNX Runtime's mark of a graph with folded norms


def add_int8(artefact: Artefact, calibration: Images, validation: Images) -> Artefact:
    """Return the artefact with an int8 graph, if that answers validation images as well as float32 does.

    Radiographs decide, or phantoms where there is nothing else; what phantoms lose is told beside. Some
    hundred images are enough for `calibration`. The manifest's `int8` says what was measured, and whether
    the graph is there.
    """
    content = int8_graph(artefact.graph, calibration.pixels)
    with tempfile.TemporaryDirectory() as folder:
        tried = _copied(artefact, Path(folder), content)
        measured = _measured(tried, validation) | {"calibration_images": len(calibration)}
    if measured["kept"]:
        return add_file(artefact, INT8_GRAPH, content, {"int8": measured})
    return describe(artefact, {"int8": measured})


def _copied(artefact: Artefact, folder: Path, content: bytes) -> Artefact:
    shutil.copytree(artefact.folder, folder, dirs_exist_ok=True)
    return add_file(replace(artefact, folder=folder), INT8_GRAPH, content, {})


def _measured(artefact: Artefact, images: Images) -> dict[str, Any]:
    """How far int8 is from float32 on images, by either engine; accuracies are shares."""
    expected = agreement.read(OpenVinoEngine(artefact, "fp32"), images.pixels)
    engines: list[Engine] = [OpenVinoEngine(artefact, "int8"), OnnxRuntimeEngine(artefact, "int8")]
    said = [agreement.read(engine, images.pixels) for engine in engines]
    is_phantom = images.sources == PHANTOM
    judged = is_phantom if is_phantom.all() else ~is_phantom
    lost_points = _lost_points(said, expected, images, judged)
    is_mixed = 0 < np.count_nonzero(is_phantom) < len(images)
    beside = {"lost_points_on_phantoms": _lost_points(said, expected, images, is_phantom)} if is_mixed else {}
    return {
        "kept": lost_points <= MOST_LOST_POINTS,
        "images": int(np.count_nonzero(judged)),
        "accuracy_fp32": _accuracy(expected, images, judged),
        "accuracy_lost_points": lost_points,
        "most_lost_points": MOST_LOST_POINTS,
        "engines": [
            agreement.difference(engine, each, expected) | {"accuracy": _accuracy(each, images, judged)}
            for engine, each in zip(engines, said, strict=True)
        ],
        **beside,
    }


def _lost_points(said: list[Reading], expected: Reading, images: Images, of: NDArray[np.bool_]) -> float:
    """The most that an engine loses on some of the images."""
    return 100 * max(_accuracy(expected, images, of) - _accuracy(each, images, of) for each in said)


def _accuracy(reading: Reading, images: Images, of: NDArray[np.bool_]) -> float:
    return float((reading.logits.argmax(axis=1) == images.labels)[of].mean())


def int8_graph(graph: Path, images: NDArray[np.uint8]) -> bytes:
    """Return an artefact's graph in int8, ranges as seen on images (N, 224, 224) uint8.

    Its head stays in float32. It must lie beside the same weights file.
    """
    folded = _Folded(graph)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(
            folded.model,
            out,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_IN_INT8,
            nodes_to_exclude=folded.head(),
            extra_options={"AddQDQPairToWeight": True},
        )
        model = onnx.load(out)
    return folded.with_kept_weights(model)


class _Batches(CalibrationDataReader):
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = ({"images": batch} for batch in agreement.batches(images))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)


class _Folded:
    """A graph whose weights are float32 within it, each batch normalisation folded into its convolution.

    It is what can be quantised; `with_kept_weights` undoes to the result what was done to the weights.
    """

    def __init__(self, graph: Path) -> None:
        self.model = onnx.load(graph)
        tensors = self.model.graph.initializer
        self._values = {each.name: numpy_helper.to_array(each) for each in tensors}
        self._kept = {
            each.name: each for each in onnx.load(graph, load_external_data=False).graph.initializer
        }
        """The same tensors as the graph has them: places in the weights file."""
        self._made_by: dict[str, list[NodeProto]] = {}
        """Name of a weight -> the nodes that make it of kept tensors."""
        nodes = self._folded(self.model.graph.node)
        used = {name for node in nodes for name in node.input}
        _replace(self.model.graph.node, nodes)
        _replace(
            tensors,
            [numpy_helper.from_array(self._values[name], name) for name in sorted(used & set(self._values))],
        )
        self.model.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])

    def _folded(self, nodes: Iterable[NodeProto]) -> list[NodeProto]:
        left: dict[str, NodeProto] = {}
        for node in nodes:
            before = left.get(node.input[0]) if node.input else None
            if node.op_type == "Cast" and node.input[0] in self._values:
                self._values[node.output[0]] = self._values[node.input[0]].astype(np.float32)
                self._made_by[node.output[0]] = [node]
            elif node.op_type == "BatchNormalization" and before is not None and before.op_type == "Conv":
                del left[node.input[0]]
                left[node.output[0]] = self._with_norm(before, node)
            else:
                left[node.output[0]] = node
        for name, node in left.items():
            node.name = name
        return list(left.values())

    def _with_norm(self, conv: NodeProto, norm: NodeProto) -> NodeProto:
        """The convolution that does what both do (torchvision's are followed by nothing but their norm)."""
        scale, shift, mean, variance = (self._values[name] for name in norm.input[1:])
        epsilon = next(each.f for each in norm.attribute if each.name == "epsilon")
        factor = (scale / np.sqrt(variance + epsilon)).astype(np.float32)
        old = self._values[conv.input[2]] if len(conv.input) > 2 else np.float32(0)
        kernel, bias, times = (f"{norm.output[0]}.{part}" for part in ("kernel", "bias", "times"))
        self._values[times] = factor.reshape(-1, 1, 1, 1)
        self._values[kernel] = self._values[conv.input[1]] * self._values[times]
        self._values[bias] = ((old - mean) * factor + shift).astype(np.float32)
        multiplied = helper.make_node("Mul", [conv.input[1], times], [kernel], name=kernel)
        self._made_by[kernel] = [*self._made_by.get(conv.input[1], []), multiplied]
        _replace(conv.input, [conv.input[0], kernel, bias])
        conv.output[0] = norm.output[0]
        return conv

    def head(self) -> list[str]:
        """Names of the nodes that come after the features."""
        reached, names = {"features"}, []
        for node in self.model.graph.node:
            if not reached.isdisjoint(node.input):
                reached.update(node.output)
                names.append(node.name)
        return names

    def with_kept_weights(self, model: ModelProto) -> bytes:
        """Return a quantised graph whose weights are made of those of the weights file again."""
        tensors = {each.name: each for each in model.graph.initializer}
        making = [node for name in tensors for node in self._made_by.get(name, [])]
        names = (tensors.keys() | {name for node in making for name in node.input}) - {
            name for node in making for name in node.output
        }
        _replace(
            model.graph.initializer,
            [self._kept.get(name) or self._tensor(name, tensors) for name in sorted(names)],
        )
        _replace(model.graph.node, [*making, *model.graph.node])
        return bytes(model.SerializeToString(deterministic=True))

    def _tensor(self, name: str, tensors: Mapping[str, TensorProto]) -> TensorProto:
        return tensors[name] if name in tensors else numpy_helper.from_array(self._values[name], name)


def _replace(repeated: Any, values: Iterable[Any]) -> None:
    """Put other values into a protobuf's list."""
    values = list(values)
    del repeated[:]
    repeated.extend(values)
