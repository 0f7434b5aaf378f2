"""Event files read back: the framing of TFRecord, and one message in each record."""

import io

import numpy as np
from PIL import Image
from tensorboardX.proto import event_pb2


def read(folder):
    """All events of the only event file in a folder, behind that with the version."""
    (path,) = folder.glob("events*")
    data = path.read_bytes()
    found = []
    while data:
        length = int.from_bytes(data[:8], "little")
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found[1:]


def shown(folder):
    """``(step, tag, value)`` of everything that is shown, in order."""
    events = [event for event in read(folder) if event.HasField("summary")]
    return [(e.step, value.tag, value) for e in events for value in e.summary.value]


def pixels(value):
    """The image in a value, and its size as TensorBoard is told."""
    size = value.image.height, value.image.width, value.image.colorspace
    image = Image.open(io.BytesIO(value.image.encoded_image_string))
    return np.asarray(image), size
