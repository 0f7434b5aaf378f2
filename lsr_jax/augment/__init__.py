"""Augmentation on the device, compiled into the train step."""
