"""Signals and limits: the first one waits for the step, the second one does not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lsr_jax.training.stop import Stop, Stopped

SCRIPT = """
import hashlib, sys, time
from lsr_jax.training.stop import Stop, Stopped
where = sys.argv[1]
try:
    with Stop() as stop:
        if where == "elsewhere":
            print("ready", flush=True)
            time.sleep(60)
        with stop.deferred():
            print("ready", flush=True)
            while not stop.after_step():
                time.sleep(0.01)
            time.sleep(0.3)
            print("saved", flush=True)
            if where == "slow":
                # One instruction, as a compilation is: no handler of Python runs.
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        stop.check()
except Stopped as reason:
    print(reason)
    sys.exit(3)
"""


def start(where, errors=subprocess.PIPE):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_step_be_saved(number):
    process = start("step")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert output == f"saved\nstopped by {number.name}, with nothing left to save\n"
    assert errors.count("a second signal ends at once") == 1


def test_the_second_signal_ends_at_once_whatever_runs():
    process = start("slow")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - begin < 5


def test_the_second_signal_ends_at_once_though_nobody_reads():
    read, write = os.pipe()
    os.close(read)
    process = start("slow", errors=write)
    os.close(write)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT


def test_where_nothing_has_to_be_saved_the_first_signal_is_enough():
    process = start("elsewhere")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (3, "stopped by SIGTERM\n")


def test_limits():
    stop = Stop(max_steps=2)
    assert stop.after_step() is None
    stop.check()
    assert stop.after_step() == "--max_steps"
    with pytest.raises(Stopped, match="--max_steps"):
        stop.check()
    assert Stop(max_minutes=0).after_step() == "--max_minutes"
    assert Stop(max_minutes=5).after_step() is None
    assert Stop().after_step() is None


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Stop():
        assert signal.getsignal(signal.SIGTERM) not in before
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert before == after


def test_no_handler_of_exceptions_takes_it():
    assert not issubclass(Stopped, Exception)
