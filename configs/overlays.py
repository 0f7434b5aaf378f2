"""How a config is put together: the keys of default.py, then flat overlays in order.

A config file has a function ``overlays(argument)`` that returns the method of every stage
and a list of overlays; of two that set the same key the later one wins. `merge` makes the
config of them, and ``python train.py --config ... --print_config`` prints it with the
origin of each value.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from lsr_jax.configs import default
from lsr_jax.methods import METHODS


class Overlay(NamedTuple):
    """Values of a config, ``"data.source.size" -> (720, 1280)``, and the file that sets them."""

    origin: str
    values: Mapping[str, object]


def at(section: str, values: Mapping[str, object]) -> dict[str, object]:
    """The same values in a section: ``at("adapt", {"steps": 1})`` sets adapt.steps."""
    return {f"{section}.{key}": value for key, value in values.items()}


def flatten(overlays: Iterable[Overlay]) -> dict[str, object]:
    """All values; later overlays win."""
    return {key: value for overlay in overlays for key, value in overlay.values.items()}


def merge(stages: Mapping[str, str], overlays: Iterable[Overlay]) -> ConfigDict:
    """The config of these stages (name -> method) with these overlays.

    Raises:
      KeyError: an overlay sets a key that default.py or the method does not have.
    """
    config = default.get_config()
    config.stages = tuple(stages)
    for name, method in stages.items():
        config[name] = default.stage(method)
    config.lock()
    config.update_from_flattened_dict(flatten(overlays))
    config.unlock()
    return config


def origins(
    config: Mapping, stages: Mapping[str, str], overlays: Iterable[Overlay]
) -> dict[str, str]:
    """Where each value of a merged config was written."""
    found = dict.fromkeys(flat(config), "configs/default.py")
    for name, method in stages.items():
        file = METHODS[method].make.__module__.replace(".", "/") + ".py"
        found |= {key: file for key in found if key.startswith(f"{name}.method.")}
    for overlay in overlays:
        found |= dict.fromkeys(overlay.values, overlay.origin)
    return found


def flat(config: Mapping, prefix: str = "") -> dict[str, object]:
    """The values of a nested config by their keys with dots."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
