"""Images as another exposure might have shown them: whole batches, on the device that trains."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe import Augmentation


def augment(gray: Tensor, how: Augmentation) -> Tensor:
    """Return gray (B, 1, H, W) in 0..255, each image cut, turned, mirrored and exposed in its own way.

    Chance comes from torch's generator of the CPU, whatever the device: it is the same everywhere.
    """
    return _exposed(_moved(gray, how), how)


def _moved(gray: Tensor, how: Augmentation) -> Tensor:
    count = len(gray)
    area = _uniform(count, *how.area)
    aspect = _uniform(count, math.log(how.aspect[0]), math.log(how.aspect[1])).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    angle = _uniform(count, -1, 1) * math.radians(how.turn_degrees)
    mirror = torch.where(torch.rand(count) < how.mirror, -1.0, 1.0)
    x, y = _uniform(count, -1, 1) * (1 - width), _uniform(count, -1, 1) * (1 - height)
    rows = [
        torch.stack([width * angle.cos() * mirror, -height * angle.sin(), x], 1),
        torch.stack([width * angle.sin() * mirror, height * angle.cos(), y], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1).to(gray.device), list(gray.shape), align_corners=False)
    return functional.grid_sample(gray, grid, padding_mode="reflection", align_corners=False)


def _exposed(gray: Tensor, how: Augmentation) -> Tensor:
    brightness = _uniform(len(gray), 1 - how.brightness, 1 + how.brightness).to(gray.device)
    contrast = _uniform(len(gray), 1 - how.contrast, 1 + how.contrast).to(gray.device)
    bright = gray * brightness.view(-1, 1, 1, 1)
    mean = bright.mean((1, 2, 3), keepdim=True)
    return ((bright - mean) * contrast.view(-1, 1, 1, 1) + mean).clamp(0, 255)


def _uniform(count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count)


def mixed(gray: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return images (B, 1, H, W) and targets (B, K), each mixed with another's (Zhang et al., ICLR 2018).

    The share, one for the batch, is drawn from Beta(alpha, alpha); at 0 all stay as they are.
    """
    if alpha == 0:
        return gray, targets
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(gray))
    return gray.lerp(gray[order], 1 - share), targets.lerp(targets[order], 1 - share)


def resized(gray: Tensor, size_px: int) -> Tensor:
    return functional.interpolate(gray, size=(size_px, size_px), mode="bilinear", antialias=True)
