"""Networks of the literature, written anew in PyTorch, to hold ours against live numbers."""

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """torchvision's, the stride on the 3x3 convolution, or Caffe's, on the first 1x1."""

    def __init__(self, inner, width, stride, dilation, project, *, caffe=False):
        super().__init__()
        out = 4 * width
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(inner, width, 1, first, bias=False)
        self.conv2 = nn.Conv2d(
            width, width, 3, second, padding=dilation, dilation=dilation, bias=False
        )
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if project:
            conv = nn.Conv2d(inner, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Body(nn.Module):
    """Output stride 16; layer4 dilates 2, 4, 8."""

    def __init__(self, stem, width, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inner = stem
        for layer, count in enumerate(blocks):
            middle, units = width * 2**layer, []
            for index in range(count):
                stride = (1, 2, 2, 1)[layer] if index == 0 else 1
                dilation = (2, 4, 8)[index] if layer == 3 else 1
                units.append(Bottleneck(inner, middle, stride, dilation, index == 0))
                inner = 4 * middle
            setattr(self, f"layer{layer + 1}", nn.Sequential(*units))

    def forward(self, x):
        x = functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        details = self.layer1(x)
        return details, self.layer4(self.layer3(self.layer2(details)))


class Atrous(nn.Module):
    def __init__(self, inner, out, dilation):
        super().__init__()
        size, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(
            inner, out, size, padding=padding, dilation=dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.atrous_conv(x)).relu()


class Pyramid(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        for number, dilation in enumerate((1, 6, 12, 18), 1):
            setattr(self, f"aspp{number}", Atrous(inner, width, dilation))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(5 * width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, x):
        branches = [getattr(self, f"aspp{number}")(x) for number in (1, 2, 3, 4)]
        pooled = self.global_avg_pool(x).expand_as(branches[0])
        return self.bn1(self.conv1(torch.cat([*branches, pooled], 1))).relu()


class Decoder(nn.Module):
    def __init__(self, details, width, num_classes):
        super().__init__()
        few = 3 * width // 16
        self.conv1 = nn.Conv2d(details, few, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(few)
        self.last_conv = nn.Sequential(
            nn.Conv2d(width + few, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Identity(),  # where the dropouts stand
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Identity(),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, x, details):
        details = self.bn1(self.conv1(details)).relu()
        x = functional.interpolate(
            x, details.shape[2:], mode="bilinear", align_corners=True
        )
        features = self.last_conv[:8](torch.cat([x, details], 1))
        return features, self.last_conv[8](features)


class DeepLabV3Plus(nn.Module):
    """CAG's network without its dropouts, under the names of its checkpoints."""

    def __init__(self, stem, width, blocks, num_classes):
        super().__init__()
        self.backbone = Body(stem, width, blocks)
        self.aspp = Pyramid(32 * width, 4 * width)
        self.decoder = Decoder(4 * width, 4 * width, num_classes)

    def forward(self, x):
        details, context = self.backbone(x)
        return self.decoder(self.aspp(context), details)
