"""Artefacts for tests: complete, small in nothing but their training."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hilum import network
from hilum.strangeness import Strangeness


def untrained(folder: Path) -> Path:
    """Return the folder of an artefact with random weights, the same every time."""
    import torch

    torch.manual_seed(0)
    made = network.build()
    rng = np.random.default_rng(0)
    known = Strangeness(
        means=rng.random((8, 2048), np.float32),
        spread=np.ones(2048, np.float32),
        quantiles=np.linspace(0, 1, 101, dtype=np.float32),
    )
    network.save_artefact(
        folder,
        made,
        known,
        version="untrained",
        temperature=1.5,
        described={"licence": "Apache-2.0", "metrics": {"accuracy": 0.25}},
        created=datetime.now(UTC),
    )
    return folder


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change a manifest as its author could: with a digest that fits."""
    file = folder / network.MANIFEST
    manifest = {**json.loads(file.read_text()), **changes}
    del manifest["digest"]
    manifest["digest"] = network._digest(manifest)
    file.write_text(json.dumps(manifest))
