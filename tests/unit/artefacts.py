"""Artefacts for tests: complete, small in nothing but their training."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hilum import network
from hilum.strangeness import Strangeness

if TYPE_CHECKING:
    from torch import nn


def untrained(folder: Path, backbone: str = network.BACKBONE) -> Path:
    """Return the folder of an artefact with random weights, the same every time."""
    return saved(folder, random_network(backbone), backbone)


def saved(folder: Path, made: "nn.Module", backbone: str) -> Path:
    """Return the folder of an artefact of this network, which finds nothing strange."""
    network.save_artefact(
        folder,
        made,
        backbone,
        known(len(network.head_of(made).state_dict()["1.weight"].T)),
        version="untrained",
        temperature=1.5,
        described={"licence": "Apache-2.0", "metrics": {"accuracy": 0.25}},
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return folder


def known(width: int) -> Strangeness:
    """Return what tells strangers apart by the first of their pooled features, (B, width)."""
    return Strangeness(
        mean=np.zeros(width, np.float32),
        direction=np.eye(1, width, dtype=np.float32)[0],
        axes=np.eye(2, width, dtype=np.float32),
        variances=np.ones(3, np.float32),
        middles=np.zeros(2, np.float32),
        reaches=np.ones(2, np.float32),
        quantiles=np.linspace(0, 1, 101, dtype=np.float32),
    )


def random_network(backbone: str = network.BACKBONE) -> "nn.Module":
    """Return a network whose every tensor counts, so that one read wrongly is seen in what it says."""
    import torch

    from hilum.export import patterns

    torch.manual_seed(0)
    made = network.build(backbone)
    for value in made.parameters():
        if value.ndim == 1:
            value.data += torch.rand_like(value) * 0.2
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of the images below: else all fades from layer to layer
    with torch.no_grad():
        network.features(made, network.normalise(torch.from_numpy(patterns()).float()[:, None]))
    return made


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """Change a manifest as its author could: with a digest that fits."""
    file = folder / network.MANIFEST
    manifest = {**json.loads(file.read_text()), **changes}
    del manifest["digest"]
    manifest["digest"] = network._digest(manifest)
    file.write_text(json.dumps(manifest))
