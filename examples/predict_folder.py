"""Segment a folder of images with a PyTorch checkpoint of one of the originals.

    python -m examples.predict_folder lsr.pth photos/ predictions/ --size 1280x640

Reads checkpoints of AdaptSegNet, CLAN, Feature To Adapt, BDL, ADVENT, MaxSquare, OCE, LSR
and CAG (`.pth`, which needs `pip install torch`, or `.safetensors`), and writes one
color map for every image. `python -m lsr_jax.predict` does the same with sliding windows,
test-time augmentation and several devices; this program shows the functions to build on.
"""

import argparse
import sys
from pathlib import Path

import cv2
import jax
import numpy as np

from lsr_jax import convert, models
from lsr_jax.augment import preprocess
from lsr_jax.data import image_io, label_spaces
from lsr_jax.ops import resample


def load(path):
    """``image -> class map`` for the network in a PyTorch checkpoint."""
    imported = convert.load(path)
    model = models.build(**imported.info["arguments"])
    preprocessing = imported.info["preprocessing"]

    @jax.jit
    def predict(images):
        inputs = preprocess.normalise(images, preprocessing=preprocessing)
        outputs, _ = model.forward(
            imported.params, imported.model_state, inputs, train=False
        )
        logits = resample.bilinear(model.prediction(outputs), images.shape[1:3])
        return logits.argmax(axis=-1)

    return lambda image: np.asarray(predict(image[None])[0])


def predict_folder(checkpoint, images, out, size):
    """Write a color map for every image; returns the files.

    Args:
      checkpoint: of a network with the 19 classes of Cityscapes.
      images: folder of images.
      out: folder to write.
      size: ``(W, H)`` to which images are resized for the network.
    """
    predict = load(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(images.iterdir()):
        try:
            image = image_io.decode_image(path.read_bytes(), str(path))
        except image_io.BadExample as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        resized = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        classes = predict(resized).astype(np.uint8)
        original = image.shape[1::-1]
        classes = cv2.resize(classes, original, interpolation=cv2.INTER_NEAREST)
        color = label_spaces.colorize(classes, label_spaces.SPACES["cityscapes"])
        written.append(out / f"{path.stem}.png")
        image_io.write_png(written[-1], color, remedy="choose another folder")
    return written


def main():
    """Read the command line, predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="1024x512", metavar="WIDTHxHEIGHT")
    options = parser.parse_args()
    size = tuple(int(side) for side in options.size.split("x"))
    written = predict_folder(options.checkpoint, options.images, options.out, size)
    print(f"{len(written)} files in {options.out}")


if __name__ == "__main__":
    main()
