"""DeepLabV2 with a ResNet in plain PyTorch, for `benchmarks.torch_baseline`.

Modules have the names of LSR's weight files, so that `lsr_jax.convert` maps our weights to them.
"""

from __future__ import annotations

import torch
from torch import nn

from lsr_jax import models
from lsr_jax.convert import names
from lsr_jax.models import resnet

STRIDES = (1, 2, 1, 1)  # of layer1 to layer4; output stride 8
DILATIONS = (1, 1, 2, 4)


class Bottleneck(nn.Module):
    """Residual block: strided 1x1, dilated 3x3, 1x1."""

    def __init__(self, channels: int, width: int, stride: int, dilation: int):
        super().__init__()
        wide = resnet.EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = None
        if stride > 1 or channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        """``[B, in, h, w] -> [B, 4 width, h', w']``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)


class ASPP(nn.Module):
    """Sum of dilated 3x3 convolutions."""

    def __init__(self, channels: int, num_classes: int, dilations: tuple[int, ...]):
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=d, dilation=d)
            for d in dilations
        )

    def forward(self, x):
        """``[B, D, h, w] -> [B, C, h, w]``."""
        return sum(branch(x) for branch in self.conv2d_list)


class DeepLab(nn.Module):
    """Features and logits at an eighth of the image size."""

    def __init__(
        self,
        architecture: resnet.Architecture,
        num_classes: int,
        dilations: tuple[int, ...] = (6, 12),
    ):
        super().__init__()
        channels = architecture.stem
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        for index, count in enumerate(architecture.blocks):
            width = architecture.width * 2**index
            blocks = []
            for number in range(count):
                stride = STRIDES[index] if number == 0 else 1
                dilation = DILATIONS[index]
                blocks.append(Bottleneck(channels, width, stride, dilation))
                channels = resnet.EXPANSION * width
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.clas = ASPP(channels, num_classes, dilations)
        for parameter in self.bn1.parameters():
            parameter.requires_grad = False

    def forward(self, x):
        """``[B, 3, H, W] -> ([B, D, h, w], [B, C, h, w])``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x, self.clas(x)


def of(model: models.Model, params, model_state) -> DeepLab:
    """The PyTorch network with the weights of ours."""
    arguments = model.arguments
    name = arguments["backbone"]
    architecture = models.BACKBONES.get(name, name)
    network = DeepLab(architecture, model.num_classes, arguments["aspp_dilations"])
    weights = {
        names.pieces(path, arguments, "lsr")[0].name: torch.tensor(names.to_torch(leaf))
        for path, leaf in names.flatten(params, model_state).items()
    }
    counters = {
        name: value
        for name, value in network.state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    network.load_state_dict(weights | counters)
    return network.train()
