"""Signals that arrive where Python drops exceptions, and readers that leave."""

import os
import signal
import subprocess
import sys

import pytest

FINALISER = """
import gc, os, signal, sys, time
from lsr_jax import commands, console
from lsr_jax.errors import Stopped
from lsr_jax.training.stopping import Stop

number = int(sys.argv[1])

class Last:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(0.05)  # the timer's first try is dropped as well

def collect(phase, info):
    if phase == "start" and not gone:
        gone.append(phase)
        os.kill(os.getpid(), number)

def work():
    if sys.argv[2] == "finaliser":
        Last()
    else:
        gc.callbacks.append(collect)
        gc.collect()
    time.sleep(2)
    print("nothing stopped it")
    return 0

gone = []
"""
STOPPED = """
try:
    with Stop(), console.attached():
        work()
except Stopped as reason:
    print(reason)
    sys.exit(3)
"""
GUARDED = "sys.exit(commands.guarded(work))"


def run(where, number, end):
    command = [sys.executable, "-c", FINALISER + end, str(int(number)), where]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("where", ["finaliser", "collector"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_a_finaliser_stops_the_work(where, number):
    done = run(where, number, STOPPED)
    assert (done.returncode, done.stdout) == (3, f"stopped by {number.name}\n")
    assert "ignored" not in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_inside_a_finaliser_ends_a_command():
    done = run("finaliser", signal.SIGINT, GUARDED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_else_is_dropped_is_shown_as_before():
    code = """
from lsr_jax import commands

class Broken:
    def __del__(self):
        1 / 0

commands.guarded(lambda: bool(Broken()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Exception ignored in: <function Broken" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("size", [1, 100_000])  # less and more than a pipe holds
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_who_leaves_stops_nothing(stream, size, tmp_path):
    code = f"""
import pathlib, sys
from lsr_jax import commands

def work():
    for _ in range(3):
        print("x" * {size}, file=sys.{stream}, flush=True)
    pathlib.Path({str(tmp_path / "done")!r}).touch()
    print("x" * {size}, file=sys.{stream})
    return 0

sys.exit(commands.guarded(work))
"""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    done = subprocess.run([sys.executable, "-c", code], check=False, **streams)
    os.close(write)
    assert done.returncode == 0
    assert (done.stdout or done.stderr or b"") == b""
    assert (tmp_path / "done").exists()


def test_a_reader_who_stays_reads_all():
    code = """
import sys
from lsr_jax import console
print("a", end="")
console.outlive_readers()
console.outlive_readers()
print("b\\u00e9")
print("c", file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == (b"ab\xe9\n", b"c\n")
