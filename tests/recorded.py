"""Recorded numbers of the originals, and how close ours came to them."""

import json
import pathlib
import re
from typing import NamedTuple

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "goldens"


class Check(NamedTuple):
    """One comparison of our numbers with the recorded ones.

    Attributes:
      file: the golden file.
      key: its key.
      count: how many numbers were compared.
      tolerance: the largest error allowed; 0 for numbers that must be equal.
      error: the largest one found: relative to ``scale``, or for a tolerance of 0 the
        number of values that differ.
      scale: what errors are relative to, in words.
    """

    file: str
    key: str
    count: int
    tolerance: float
    error: float
    scale: str

    @property
    def passed(self):
        return self.error <= self.tolerance


SCALES = {
    "value": np.abs,
    "largest": lambda golden: np.nanmax(np.abs(golden), initial=0.0),
    "norm": np.linalg.norm,
}


class Golden:
    """The share of one golden file that a test says it holds; notes what it reads.

    ``report`` gets every `Check` that is made.
    """

    def __init__(self, file, patterns, report):
        with np.load(GOLDENS / f"{file}.npz", allow_pickle=False) as arrays:
            self.arrays = {
                key: arrays[key]
                for key in arrays.files
                if any(re.fullmatch(pattern, key) for pattern in patterns)
            }
        self.file = file
        self.report = report
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return self.arrays[key]

    def used(self, *keys):
        """The keys are inputs of what is held, read by whatever computes it."""
        self.read.update(self.arrays.keys() & set(keys))
        missing = set(keys) - self.arrays.keys()
        assert not missing, f"not in the file or not declared: {sorted(missing)}"

    def only(self, pattern):
        """This case of a parametrised test holds these keys of the declared ones."""
        self.arrays = {k: v for k, v in self.arrays.items() if re.fullmatch(pattern, k)}
        assert self.arrays, pattern

    def holds(self, key, ours, rtol=None, *, scale="value"):
        """Floats to ``rtol``, by default 1e-5 (float64: 1e-9); the rest exactly.

        ``scale`` says what the error of an entry is relative to: its own "value", the
        "largest" entry, or an array that is named by its words: ``(words, array)``.
        With "norm" the error is that of the whole array.
        """
        golden, ours = self[key], np.asarray(ours)
        assert ours.shape == golden.shape, key
        if golden.dtype.kind != "f":
            wrong = int((ours != golden).sum())
            self._check(key, golden.size, 0, wrong, "exact")
            return
        if rtol is None:
            rtol = 1e-9 if golden.dtype == np.float64 else 1e-5
        words, divisor = (
            (scale, SCALES[scale](golden)) if isinstance(scale, str) else scale
        )
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(golden), err_msg=key)
        wide = np.float64
        error = np.nan_to_num(ours.astype(wide) - golden.astype(wide))
        error = np.linalg.norm(error) if scale == "norm" else np.abs(error)
        # A recorded zero has to be met by a zero.
        error = error / np.maximum(np.nan_to_num(divisor), 1e-30)
        self._check(key, golden.size, rtol, float(np.max(error, initial=0)), words)

    def holds_gradient(self, key, ours):
        """Every entry to 1e-5 of the largest."""
        self.holds(key, ours, 1e-5, scale="largest")

    def equals(self, key, ours):
        """Every entry exactly, words and floats included."""
        ours = np.asarray(ours)
        assert ours.shape == self[key].shape, key
        wrong = int((ours != self[key]).sum())
        self._check(key, self[key].size, 0, wrong, "exact")

    def _check(self, key, count, tolerance, error, scale):
        check = Check(self.file, key, count, float(tolerance), float(error), scale)
        self.report(check)
        assert check.passed, f"{key}: error {error:.3g}, allowed {tolerance:.3g}"


def keys():
    """``{file: {key: {shape, dtype, meaning}}}`` of every golden file."""
    return json.loads((GOLDENS / "keys.json").read_text())
