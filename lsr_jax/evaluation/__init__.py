"""Scores: confusion matrices counted on the device, measures taken on the host."""
