"""Engines: the ways to run a network on what this machine has. All of them read the same weights file."""

import ctypes
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hilum.errors import NetworkError
from hilum.network import Artefact, features, head_of, load_network, normalise, pooled

INT8_GRAPH = "graph-int8.onnx"
"""A third file that an artefact may have: the network in int8 (`training.quantise`)."""

ENGINES = ("openvino", "onnxruntime", "torch")
"""Names for `named_engine`."""
Precision = Literal["auto", "int8"]


@dataclass(frozen=True)
class Reading:
    """What a network says of a batch."""

    logits: NDArray[np.float32]
    """(B, 4), in the order of `hilum.network.LABELS`, before the temperature."""
    probabilities: NDArray[np.float32]
    """(B, 4), each row sums to 1; calibrated by the temperature."""
    features: NDArray[np.float32]
    """(B, C, h, w), for `hilum.gradcam.heat_map`; (B, C) of a network without such a map."""
    ood: NDArray[np.float32]
    """(B,), see `hilum.strangeness.Strangeness.of`: beyond 1 the image is not assessed."""


class Engine(Protocol):
    """A network made ready. Threads may call `read` at the same time; batches run one after the other."""

    name: str
    device: str
    """The processor's or the graphics card's name."""
    precision: str
    """"bf16", "fp32" or "int8": what the convolutions compute with."""
    artefact: Artefact

    def read(self, images: NDArray[np.uint8]) -> Reading:
        """Return the reading of images (B, 224, 224) uint8 out of `hilum.radiograph.network_input`."""
        ...


def choose_engine(artefact: Artefact, device: str = "auto", precision: Precision = "auto") -> Engine:
    """Return the engine for a device: "cuda" (torch), "cpu", or "auto", which is CUDA where there is one.

    On the processor it is OpenVINO, or ONNX Runtime where OpenVINO is not installed. "int8" is for the
    processor and needs an artefact with an int8 graph; "auto" is the best that the device computes with.

    Raises
    ------
    NetworkError
        If "cuda" is asked for and torch sees no CUDA device, the device has another name, the artefact has
        no int8 graph, or no engine is installed.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise NetworkError(f"There is no device {device!r}: use auto, cuda or cpu.")
    if device == "cuda":
        return _on_cuda(artefact, precision)
    if device == "auto" and precision == "auto" and _cuda_is_there():
        return TorchEngine(artefact, "cuda")
    return named_engine(artefact, "openvino" if _is_installed("openvino") else "onnxruntime", precision)


def named_engine(artefact: Artefact, name: str, precision: Precision = "auto") -> Engine:
    """Return one of `ENGINES` on the processor.

    Raises NetworkError when it is not installed, or cannot do with this artefact what is asked.
    """
    if not _is_installed(name):
        extra = {"onnxruntime": "hilum[edge]", "torch": "hilum[torch]"}.get(name, name)
        raise NetworkError(f"{name} is not installed: pip install '{extra}'.")
    if name == "torch":
        if precision == "int8":
            raise NetworkError("torch does not read in int8: use openvino or onnxruntime.")
        return TorchEngine(artefact, "cpu")
    return (
        OpenVinoEngine(artefact, precision) if name == "openvino" else OnnxRuntimeEngine(artefact, precision)
    )


def _on_cuda(artefact: Artefact, precision: Precision) -> Engine:
    if precision == "int8":
        raise NetworkError("int8 is for the processor: set device to cpu, or precision to auto.")
    if not _cuda_is_there():
        raise NetworkError(
            'torch is not installed or sees no CUDA device: install "hilum[torch]", or use cpu.'
        )
    return TorchEngine(artefact, "cuda")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _cuda_is_there() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")  # the driver's own library: without it there is no need to import torch
    except OSError:
        return False
    if not _is_installed("torch"):
        return False
    import torch

    return bool(torch.cuda.is_available())


def _graph(artefact: Artefact, precision: str) -> Path:
    """The ONNX graph for a precision."""
    if precision != "int8":
        return artefact.graph
    if INT8_GRAPH not in artefact.manifest["sha256"]:
        raise NetworkError(
            f"The network {artefact.version} has no int8 graph: set precision to auto, or use one that has."
        )
    return artefact.folder / INT8_GRAPH


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def openvino_core() -> Any:
    """Return this process's one `openvino.Core`.

    A second one would be dangerous: each gives the thread that makes it a stack of its own for signals, and
    takes it away when it goes. When the first goes before the second, the next signal is handled on memory
    that is no longer there, and kills the process.
    """
    # kept from reporting its use to its makers: a hospital's machine phones nobody
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino.Core()


class OpenVinoEngine:
    """The network on this machine's processor, bf16 where the processor computes with it. Needs no torch.

    Precision is "auto", "bf16", "fp32" or "int8".
    """

    name = "openvino"

    def __init__(self, artefact: Artefact, precision: str = "auto") -> None:
        core = openvino_core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision
        graph = _graph(artefact, self.precision)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # one request at a time, all threads on it
            "INFERENCE_NUM_THREADS": str(_threads()),
            "ENABLE_CPU_PINNING": "NO",  # the listener and the decoders want these cores too
        }
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._one_at_a_time = Lock()
        self._finish = _Finish(artefact)
        self.artefact = artefact
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()

    def read(self, images: NDArray[np.uint8]) -> Reading:
        with self._one_at_a_time:
            self._request.infer([images])
            # Copies, since the next batch is written over the request's own memory.
            logits, maps = (np.array(self._request.get_tensor(name).data) for name in ("logits", "features"))
        return self._finish(logits, maps)


class OnnxRuntimeEngine:
    """The network by ONNX Runtime, fp32 or int8: small, and at home on machines that OpenVINO does not know.

    Precision is "auto", which is fp32, "fp32" or "int8".
    """

    name = "onnxruntime"

    def __init__(self, artefact: Artefact, precision: str = "auto") -> None:
        import onnxruntime

        self.precision = "fp32" if precision == "auto" else precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 3  # errors: what it remarks on a graph is nothing to a user
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others want these cores
        graph = _graph(artefact, self.precision)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._one_at_a_time = Lock()
        self._finish = _Finish(artefact)
        self.artefact = artefact
        self.device = platform.processor() or platform.machine()

    def read(self, images: NDArray[np.uint8]) -> Reading:
        with self._one_at_a_time:
            logits, maps = self._session.run(["logits", "features"], {"images": images})
        return self._finish(logits, maps)


class TorchEngine:
    """The network in torch: on CUDA bf16 and channels last, on the processor fp32, as the reference."""

    name = "torch"

    def __init__(self, artefact: Artefact, device: str) -> None:
        import torch

        self.precision = "bf16" if device == "cuda" else "fp32"
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[self.precision]
        network = load_network(artefact).eval().to(device, dtype)
        self._network = network.to(memory_format=torch.channels_last)
        self._head = head_of(network).float()
        self._device, self._dtype = device, dtype
        self._one_at_a_time = Lock()
        self._finish = _Finish(artefact)
        self.artefact = artefact
        self.device = torch.cuda.get_device_name() if device == "cuda" else "cpu"

    def read(self, images: NDArray[np.uint8]) -> Reading:
        import torch

        with self._one_at_a_time, torch.inference_mode():
            gray = torch.from_numpy(images).to(self._device).float()[:, None]
            maps = features(self._network, normalise(gray).to(self._dtype)).float()
            logits = self._head(pooled(maps))
            return self._finish(logits.cpu().numpy(), maps.contiguous().cpu().numpy())


class _Finish:
    """From what a network gives out to a reading: the same for all engines."""

    def __init__(self, artefact: Artefact) -> None:
        self._temperature = artefact.temperature
        self._strangeness = artefact.strangeness()

    def __call__(self, logits: NDArray[np.float32], maps: NDArray[np.float32]) -> Reading:
        scaled = logits / self._temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities = raised / raised.sum(axis=1, keepdims=True)
        ood = self._strangeness.of(pooled(maps))
        return Reading(logits, np.asarray(probabilities, np.float32), maps, ood)
