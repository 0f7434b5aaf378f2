"""The LSR training step in plain PyTorch, as a baseline for speed.

    python -m benchmarks.torch_baseline                      every mode
    python -m benchmarks.torch_baseline --mode default bfloat16
    python -m benchmarks.torch_baseline --quick              small, on a CPU
    python -m benchmarks.train_step --vs_torch               alternating with ours

Modes: "float32"; "default", float32 with PyTorch's default flags (TF32 in convolutions);
"tf32", TF32 in matrix products too; "bfloat16", autocast with channels last; "compiled",
bfloat16 with torch.compile. Written by us. The loss is that of the method ``lsr`` with default
keywords on the same images; a test compares the values.
"""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import steps, timing, torch_network
from lsr_jax import models

MODES = ("float32", "default", "tf32", "bfloat16", "compiled")
WEIGHTS = {
    "clustering": 0.1,
    "perpendicularity": 0.2,
    "norm": 0.025,
    "entropy": 0.1,
}
MEAN = (104.00698793, 116.66876762, 122.67891434)  # of BGR, as preprocessing "caffe"
C = steps.NUM_CLASSES


class Step:
    """LSR on fixed images; each call trains one step and waits for the device."""

    def __init__(self, setting: steps.Setting, mode: str = "float32"):
        self.mode = mode
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.channels_last = mode in ("bfloat16", "compiled")
        model = models.build(
            backbone=setting.backbone, num_classes=C, initialisation="released"
        )
        key = jax.random.split(jax.random.key(0), 3)[0]  # as in `steps.Program`
        weights = jax.device_get(model.init(key, setting.source_size))
        self.network = torch_network.of(model, *weights).to(self.device)
        head = list(self.network.clas.parameters())
        body = [p for n, p in self.network.named_parameters() if "clas" not in n]
        self.optimizer = torch.optim.SGD(
            [{"params": body}, {"params": head, "lr": 2.5e-3}],
            lr=2.5e-4,
            momentum=0.9,
            weight_decay=5e-4,
        )
        method, _ = steps.make_method("lsr")
        batch = steps.batch(method, setting)
        self.source, self.target = (
            torch.tensor(domain.image).to(self.device)
            for domain in (batch.source, batch.target)
        )
        self.label = torch.tensor(batch.source.label).long().to(self.device)
        self.prototypes = torch.zeros(C, model.feature_dim, device=self.device)
        self.seen = torch.zeros(C, dtype=torch.bool, device=self.device)
        self.norm = torch.zeros((), device=self.device)
        self.loss = None
        if self.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        compiled = mode == "compiled"
        self.forward = torch.compile(self.network) if compiled else self.network
        self.total = torch.compile(total) if compiled else total

    def __call__(self) -> None:
        """Train one step."""
        flags(self.mode)
        self.optimizer.zero_grad(set_to_none=True)
        source, target = (self.outputs(image) for image in (self.source, self.target))
        state = (self.prototypes, self.seen, self.norm)
        size = tuple(self.target.shape[1:3])
        loss, state = self.total(source, target, self.label, size, *state)
        loss.backward()
        self.optimizer.step()
        self.prototypes, self.seen, self.norm = (x.detach() for x in state)
        self.loss = loss.detach()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def outputs(self, image):
        """Float32 features and logits of uint8 images ``[B, H, W, 3]``."""
        x = image.flip(-1).float() - torch.tensor(MEAN, device=self.device)
        x = x.permute(0, 3, 1, 2)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x = x.contiguous(memory_format=layout)
        low = contextlib.nullcontext()
        if self.mode in ("bfloat16", "compiled"):
            low = torch.autocast(self.device, torch.bfloat16)
        with low:
            features, logits = self.forward(x)
        return features.float(), logits.float()


def flags(mode: str) -> None:
    """Set PyTorch's TF32 flags."""
    torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"
    torch.backends.cudnn.allow_tf32 = mode != "float32"
    torch.backends.cudnn.benchmark = True


def total(source, target, label, target_size, prototypes, seen, norm):
    """LSR's loss and the next state: prototypes, seen classes, source norm."""
    features, logits = source
    full = F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=True)
    loss = F.cross_entropy(full, label, ignore_index=255)

    cells = downsample(label, features.shape[2:])
    means, counts = class_means(features, cells)
    present = counts > 0
    moved = 0.8 * prototypes + 0.2 * means
    smoothed = torch.where(present[:, None], moved, prototypes)
    seen = seen | present

    target_features, target_logits = target
    full = F.interpolate(
        target_logits, target_size, mode="bilinear", align_corners=True
    )
    probability = full.softmax(1)
    with torch.no_grad():
        largest, prediction = probability.max(1)
        sure = F.adaptive_avg_pool2d(largest, target_features.shape[2:]) >= 0.5
        guessed = downsample(prediction, target_features.shape[2:])
        guessed = torch.where(sure, guessed, 255)

    loss = loss + WEIGHTS["clustering"] * (
        clustering(features, cells, smoothed, seen)
        + clustering(target_features, guessed, smoothed, seen)
    )
    loss = loss + WEIGHTS["perpendicularity"] * perpendicularity(means, present)
    lengths, target_lengths = features.norm(dim=1), target_features.norm(dim=1)
    now = lengths.mean().detach()
    wanted = torch.where(norm == 0, now, norm) + 0.002
    loss = loss + WEIGHTS["norm"] * (
        (wanted - lengths).abs().mean() + F.relu(wanted - target_lengths).mean()
    )
    loss = loss + WEIGHTS["entropy"] * max_squares(probability, prediction)
    return loss, (smoothed, seen, now)


def downsample(label, size, threshold: float = 0.5):
    """Histogram-aware label downsampling, ``[B, H, W]`` to ``[B, h, w]``."""
    rows, columns = (
        band(*sides, label.device) for sides in zip(label.shape[1:], size, strict=True)
    )
    one_hot = F.one_hot(torch.where(label < C, label, C), C + 1)[..., :C].float()
    counts = torch.einsum("ih,bhwc,jw->bijc", rows, one_hot, columns)
    (largest, second), (winner, _) = (x.unbind(-1) for x in counts.topk(2, dim=-1))
    clear = (largest > 0) & ((second == 0) | (second < threshold * largest))
    return torch.where(clear, winner, 255)


def band(side: int, cells: int, device):
    """``[cells, side]``: 1 where a pixel is in the window of a cell."""
    step = side / cells
    centres = np.floor(step * np.arange(cells)).astype(int)[:, None]
    near = np.abs(np.arange(side) - centres) <= np.ceil(step / 2)
    return torch.tensor(near, dtype=torch.float32, device=device)


def class_means(features, cells):
    """Means ``[C, D]`` and counts ``[C]`` of the features ``[B, D, h, w]``."""
    flat = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    chosen = members(cells, flat)
    counts = chosen.sum(0)
    return chosen.T @ flat / counts.clamp(min=1)[:, None], counts


def members(cells, like):
    """One-hot classes of all cells, ``[N, C]``; zeros for 255."""
    return F.one_hot(cells.flatten().clamp(max=C), C + 1)[:, :C].to(like.dtype)


def clustering(features, cells, prototypes, seen):
    """Mean over all classes of the mean squared distance to the prototype."""
    flat = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    chosen = members(cells, flat)
    counts = chosen.sum(0)
    share = torch.where((counts > 0) & seen, 1 / (counts.clamp(min=1) * C), 0)
    own = chosen @ prototypes.detach()
    return ((chosen @ share) * (flat - own).square().sum(1)).sum()


def perpendicularity(means, present):
    """Mean cosine between the means of different classes."""
    unit = F.normalize(means, dim=1)
    pairs = torch.triu(present[:, None] & present, diagonal=1)
    return ((unit @ unit.T) * pairs).sum() / pairs.sum().clamp(min=1)


def max_squares(probability, prediction, ratio: float = 0.2):
    """Image-wise weighted maximum squares."""
    histogram = F.one_hot(prediction, C).float().sum((1, 2))
    everything = histogram.sum(-1, keepdim=True)
    weights = 1 / (histogram**ratio * everything ** (1 - ratio)).clamp(min=1)
    weights = torch.stack([w[p] for w, p in zip(weights, prediction, strict=True)])
    squares = probability.square().sum(1)
    return -(weights * squares).sum() / (len(prediction) * C)


def sides(setting: steps.Setting, modes: list[str]) -> dict[str, Step]:
    """A step for every mode."""
    return {f"torch {mode}": Step(setting, mode) for mode in modes}


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    parser = timing.parser(__doc__, repeats=20)
    parser.prog = "python -m benchmarks.torch_baseline"
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--source_size", type=timing.size, help="1280x720")
    parser.add_argument("--target_size", type=timing.size, help="1024x512")
    parser.add_argument("--backbone", help="resnet101; quick: mini")
    parser.add_argument("--batch_size", type=int, default=1)
    options = timing.defaults(parser.parse_args(arguments))
    setting = steps.Setting(
        *("lsr", options.source_size, options.target_size, options.batch_size),
        backbone=options.backbone,
    )
    samples = timing.alternate(
        sides(setting, options.mode), repeats=options.repeats, warmup=options.warmup
    )
    seconds = {name: timing.spread(times) for name, times in samples.items()}
    rows = [
        ("step", "ms [quartiles]"),
        *((n, timing.ms(s)) for n, s in seconds.items()),
    ]
    facts = {"torch": torch.__version__, "cuda": torch.cuda.is_available()}
    return timing.finish(
        {**facts, **setting._asdict(), "seconds": seconds}, rows, file=options.json
    )


if __name__ == "__main__":
    main()
