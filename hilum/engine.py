"""Engines: the ways to run a network on what this machine has. All of them read the same weights file."""

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hilum.errors import NetworkError
from hilum.network import Artefact, load_network, normalise


@dataclass(frozen=True)
class Reading:
    """What a network says of a batch."""

    probabilities: NDArray[np.float32]
    """(B, 4), each row sums to 1, in the order of `hilum.network.LABELS`; calibrated by the temperature."""
    features: NDArray[np.float32]
    """(B, 2048, 7, 7), for `hilum.gradcam.heat_map`."""
    ood: NDArray[np.float32]
    """(B,), see `hilum.network.Strangeness.of`: from about 1 on, nothing like it was known."""


class Engine(Protocol):
    """A network made ready. Threads may call `read` at the same time; batches run one after the other."""

    name: str
    device: str
    """The processor's or the graphics card's name."""
    precision: str
    """"bf16" or "fp32": what the convolutions compute with."""
    artefact: Artefact

    def read(self, images: NDArray[np.uint8]) -> Reading:
        """Return the reading of images (B, 224, 224) uint8 out of `hilum.radiograph.network_input`."""
        ...


def choose_engine(artefact: Artefact, device: str = "auto") -> Engine:
    """Return an engine for a device: "cuda" (torch), "cpu" (OpenVINO), or "auto", CUDA where there is one.

    Raises
    ------
    NetworkError
        If "cuda" is asked for and torch sees no CUDA device, or the device has another name.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise NetworkError(f"There is no device {device!r}: use auto, cuda or cpu.")
    if device != "cpu" and _cuda_is_there():
        return TorchEngine(artefact, "cuda")
    if device == "cuda":
        raise NetworkError(
            'torch is not installed or sees no CUDA device: install "hilum[torch]", or use cpu.'
        )
    return OpenVinoEngine(artefact)


def _cuda_is_there() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")  # the driver's own library: without it there is no need to import torch
    except OSError:
        return False
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def import_openvino() -> ModuleType:
    """Return OpenVINO, kept from reporting its use to its makers: a hospital's machine phones nobody."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino  # type: ignore[no-any-return]


class OpenVinoEngine:
    """The network on this machine's processor, bf16 where the processor computes with it. Needs no torch."""

    name = "openvino"

    def __init__(self, artefact: Artefact, precision: str = "auto") -> None:
        openvino = import_openvino()
        core = openvino.Core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = ("bf16" if has_bf16 else "fp32") if precision == "auto" else precision
        settings = {
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[self.precision],
            "PERFORMANCE_HINT": "LATENCY",  # one request at a time, all threads on it
            "INFERENCE_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "ENABLE_CPU_PINNING": "NO",  # the listener and the decoders want these cores too
        }
        compiled = core.compile_model(core.read_model(artefact.graph), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._one_at_a_time = Lock()
        self._finish = _Finish(artefact)
        self.artefact = artefact
        self.device = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()

    def read(self, images: NDArray[np.uint8]) -> Reading:
        with self._one_at_a_time:
            self._request.infer([images])
            # Copies, since the next batch is written over the request's own memory.
            logits, features = (
                np.array(self._request.get_tensor(name).data) for name in ("logits", "features")
            )
        return self._finish(logits, features)


class TorchEngine:
    """The network in torch: on CUDA bf16 and channels last, on the processor fp32, as the reference."""

    name = "torch"

    def __init__(self, artefact: Artefact, device: str) -> None:
        import torch

        self.precision = "bf16" if device == "cuda" else "fp32"
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[self.precision]
        network = load_network(artefact).eval().to(device, memory_format=torch.channels_last)
        self._body = torch.nn.Sequential(*list(network.children())[:-2]).to(dtype)
        self._head, self._device, self._dtype = network.fc, device, dtype
        self._one_at_a_time = Lock()
        self._finish = _Finish(artefact)
        self.artefact = artefact
        self.device = torch.cuda.get_device_name() if device == "cuda" else "cpu"

    def read(self, images: NDArray[np.uint8]) -> Reading:
        import torch

        with self._one_at_a_time, torch.inference_mode():
            gray = torch.from_numpy(images).to(self._device).float()[:, None]
            features = self._body(normalise(gray).to(self._dtype)).float()
            logits = self._head(features.mean((2, 3)))
            return self._finish(logits.cpu().numpy(), features.contiguous().cpu().numpy())


class _Finish:
    """From what a network gives out to a reading: the same for all engines."""

    def __init__(self, artefact: Artefact) -> None:
        self._temperature = artefact.temperature
        self._strangeness = artefact.strangeness()

    def __call__(self, logits: NDArray[np.float32], features: NDArray[np.float32]) -> Reading:
        scaled = logits / self._temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities = raised / raised.sum(axis=1, keepdims=True)
        ood = self._strangeness.of(features.mean(axis=(2, 3)))
        return Reading(np.asarray(probabilities, np.float32), features, ood)
