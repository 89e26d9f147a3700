"""How fast each engine reads, and with how much memory: `python benchmarks/engines.py [--network FOLDER]`.

Each engine runs in a process of its own, in turns with torch eager fp32, which all are compared with. Prints
JSON: images a second at batches of 1 and 8 and their ratio to torch in the same round (medians of the
rounds), the peak resident memory of a process that only reads, and that of `hilum predict` on a DICOM file of
2500 x 2048. Say nothing of a machine on which something else runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hilum import phantom
from hilum.engine import INT8_GRAPH, Engine, OnnxRuntimeEngine, OpenVinoEngine, named_engine
from hilum.network import Artefact, load_artefact, shipped

BATCHES = (1, 8)
REFERENCE = "torch fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", type=Path, default=shipped(), help="folder of an artefact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each batch size is timed")
    parser.add_argument("--only", default="", help="one engine: what the benchmark calls for each of them")
    arguments = parser.parse_args()
    artefact = load_artefact(arguments.network)
    if arguments.only:
        print(json.dumps(measured(artefact, arguments.only, arguments.seconds)))
        return
    rounds = [
        one_round(arguments.network, names(artefact), arguments.seconds) for _ in range(arguments.rounds)
    ]
    print(
        json.dumps(
            {
                "network": artefact.version,
                "machine": f"{platform.platform()}, {OpenVinoEngine(artefact).device}",
                "rounds": arguments.rounds,
                "engines": {name: summary(rounds, name) for name in rounds[0]},
                "predict_peak_mb": predict_peaks_mb(artefact),
            },
            indent=1,
        )
    )


def names(artefact: Artefact) -> list[str]:
    """Return the engines that this machine can run this artefact with, torch first."""
    found = [REFERENCE, "openvino fp32", "onnxruntime fp32"]
    if OpenVinoEngine(artefact).precision == "bf16":
        found.append("openvino bf16")
    if INT8_GRAPH in artefact.manifest["sha256"]:
        found += ["openvino int8", "onnxruntime int8"]
    return found


def engine(artefact: Artefact, name: str) -> Engine:
    kind, precision = name.split()
    if kind == "torch":
        return named_engine(artefact, "torch")
    return (
        OpenVinoEngine(artefact, precision) if kind == "openvino" else OnnxRuntimeEngine(artefact, precision)
    )


def one_round(network: Path, engines: list[str], seconds: float) -> dict[str, dict[str, Any]]:
    command = [sys.executable, __file__, "--network", str(network), "--seconds", str(seconds), "--only"]
    return {
        name: json.loads(subprocess.run([*command, name], capture_output=True, check=True, text=True).stdout)
        for name in engines
    }


def measured(artefact: Artefact, name: str, seconds: float) -> dict[str, Any]:
    started = time.perf_counter()
    reader = engine(artefact, name)
    load_s = time.perf_counter() - started
    speeds = {str(batch): images_per_s(reader, batch, seconds) for batch in BATCHES}
    return {"load_s": load_s, "images_per_s": speeds, "peak_mb": peak_mb()}


def images_per_s(reader: Engine, batch: int, seconds: float) -> float:
    """Return the speed of the median batch, after one that warms up."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 224, 224), np.uint8)
    reader.read(images)
    durations_s: list[float] = []
    while sum(durations_s) < seconds or len(durations_s) < 3:
        started = time.perf_counter()
        reader.read(images)
        durations_s.append(time.perf_counter() - started)
    return batch / statistics.median(durations_s)


def peak_mb() -> float:
    """Return the most memory this process has had resident, as Linux counts it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def summary(rounds: list[dict[str, dict[str, Any]]], name: str) -> dict[str, Any]:
    ours = [each[name] for each in rounds]
    speeds, ratios = {}, {}
    for batch in map(str, BATCHES):
        speeds[batch] = round(statistics.median(each["images_per_s"][batch] for each in ours), 1)
        against = [
            each[name]["images_per_s"][batch] / each[REFERENCE]["images_per_s"][batch] for each in rounds
        ]
        ratios[batch] = round(statistics.median(against), 2)
    return {
        "images_per_s": speeds,
        "times_torch_eager_fp32": ratios,
        "load_s": round(statistics.median(each["load_s"] for each in ours), 2),
        "peak_mb": round(max(each["peak_mb"] for each in ours)),
    }


PREDICT = """
import sys
from console.cli import main
try:
    main()
finally:
    print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


def predict_peaks_mb(artefact: Artefact) -> dict[str, int]:
    """Return the peak of `hilum predict` by each engine that needs no torch."""
    precisions = ["auto", *(["int8"] if INT8_GRAPH in artefact.manifest["sha256"] else [])]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "phantom.dcm"
        phantom.phantom(1, "Pneumonia").save_as(file, enforce_file_format=True)
        return {
            f"{name}, precision {precision}": predict_peak_mb(artefact.folder, file, name, precision)
            for name in ("openvino", "onnxruntime")
            for precision in precisions
        }


def predict_peak_mb(network: Path, file: Path, name: str, precision: str) -> int:
    answer = subprocess.run(
        [sys.executable, "-c", PREDICT, "predict", str(file), "--network", str(network), "--engine", name],
        env={**os.environ, "HILUM_PRECISION": precision},
        capture_output=True,
        check=True,
        text=True,
    )
    return round(int(answer.stderr.split()[-1]) / 1000)


if __name__ == "__main__":
    main()
