"""Evaluation: predictions, confusion matrices, measures and BatchNorm statistics."""
