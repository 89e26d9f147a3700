"""Weights to begin a training with: out of a file, an artefact, or torchvision's download."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from hilum.errors import NetworkError
from hilum.network import load_artefact

_WANTED = "Save the state_dict of the model, nothing else: as .safetensors, or as .pth by torch.save."


def put_into(network: nn.Module, backbone: str, weights: str | Path, *, head: str) -> None:
    """Put weights into a network: all of its backbone's, and its head's where they are there and fit.

    Raises NetworkError when they cannot be had, are of another backbone or are no finite numbers.
    """
    given = downloaded(backbone) if weights == "download" else read(Path(weights))
    wanted = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    fitting = {
        name: given[name].float()
        for name, value in wanted.items()
        if name in given and given[name].shape == value.shape
    }
    of_head = {name for name in wanted if name.startswith(f"{head}.")}
    strange = [name for name in given if not name.startswith(f"{head}.") and name not in network.state_dict()]
    lacking = [name for name in wanted if name not in fitting and name not in of_head]
    if lacking or strange:
        raise NetworkError(
            f"The weights in {weights} are not of a {backbone}: {(lacking + strange)[0]} is missing there, "
            "unknown or of another shape. Give weights of the same backbone, with torchvision's names."
        )
    if not all(value.isfinite().all() for value in fitting.values()):
        raise NetworkError(f"The weights in {weights} are not all finite numbers. Give others.")
    if not of_head <= fitting.keys():
        fitting = {name: value for name, value in fitting.items() if name not in of_head}
    network.load_state_dict(fitting, strict=False)


def read(weights: Path) -> dict[str, Tensor]:
    """Return the tensors of an artefact's folder, a safetensors file, or a .pth file of tensors alone."""
    if weights.is_dir():
        tensors = load_file(load_artefact(weights).weights)
        # the first artefact keeps what it knows among its weights
        return {name: value for name, value in tensors.items() if not name.startswith("strangeness.")}
    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        raise NetworkError(f"{weights} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a file from elsewhere: its readers can raise anything
        raise NetworkError(
            f"{weights} does not hold tensors alone: {type(error).__name__}. {_WANTED}"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise NetworkError(f"{weights} does not hold tensors alone. {_WANTED}")
    return tensors


def downloaded(backbone: str) -> dict[str, Tensor]:
    """Return torchvision's weights of ImageNet, kept in torch's cache for the next time."""
    weights = get_model_weights(backbone)["DEFAULT"]
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise NetworkError(
            f"torchvision's weights of {backbone} cannot be downloaded ({error}). Fetch {weights.url} on a "
            "machine with internet, bring the file here and name it as the weights."
        ) from error
