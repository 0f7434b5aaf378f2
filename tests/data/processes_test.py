import itertools
import multiprocessing
import operator
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import sandbox
from lsr_jax.data import processes
from lsr_jax.errors import TrainingError

ROOT = pathlib.Path(__file__).parents[2]


def wait_or_number(number):
    if number == 0:
        time.sleep(0.3)
    return number


def signals(_):
    """The handlers of both signals, and the blocked signals."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)], mask


def test_one_worker_is_this_process():
    with processes.make_pool(1) as pool:
        assert pool is None
        numbers = processes.ordered(pool, operator.neg, range(5))
        assert list(numbers) == [0, -1, -2, -3, -4]


def test_results_come_in_order_and_are_bounded():
    with processes.make_pool(2) as pool:
        taken = itertools.count()
        jobs = (next(taken) for _ in range(100))
        results = processes.ordered(pool, operator.neg, jobs, ahead=8)
        assert [next(results) for _ in range(3)] == [0, -1, -2]
        assert next(taken) <= 3 + 8
        results.close()
        # The first job ends last.
        jobs = range(20)
        assert list(processes.ordered(pool, wait_or_number, jobs)) == [*jobs]
        assert list(processes.ordered(pool, operator.neg, [])) == []
        with pytest.raises(ZeroDivisionError) as caught:
            list(processes.ordered(pool, (1).__truediv__, [1, 0]))
        assert "Traceback" in str(caught.value.__cause__)  # that of the worker
        found = list(processes.ordered(pool, signals, range(4)))
        assert found == [([signal.SIG_IGN] * 2, set())] * 4
    assert not multiprocessing.active_children()


def bytes_or_wait(size):
    return bytes(size) if size else time.sleep(60)


def kill_a_worker(wait):
    with processes.make_pool(2) as pool:
        # The last job is never done, however fast the others are.
        jobs = [*[5 * 10**7] * 8, 0]
        results = processes.ordered(pool, bytes_or_wait, jobs)
        next(results)
        time.sleep(wait)  # most likely, it is writing a result
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        list(results)


@pytest.mark.parametrize("wait", [0, 0.02, 0.5])
def test_a_killed_worker_is_a_training_error_of_one_line(wait):
    with pytest.raises(TrainingError, match="a worker process died") as caught:
        kill_a_worker(wait)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


STARTING = """
import operator, signal, sys
from lsr_jax.data import processes
if __name__ == "__main__":
    handled = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: handled.append(number))
    with processes.make_pool(3) as pool:
        print("started", flush=True)
        print(*processes.ordered(pool, operator.neg, range(6)), len(handled))
"""


def test_signals_to_the_group_while_workers_start_reach_the_parent_only(tmp_path):
    """The imports of the workers take longer than the parent needs to start them."""
    script = tmp_path / "starting.py"
    script.write_text(STARTING)
    with subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == b"started\n"
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == b"0 -1 -2 -3 -4 -5 2\n"
        assert process.stderr.read() == b""
    end = time.monotonic() + 10  # Python's resource tracker ends last
    while left := sandbox.alive(process.pid):
        assert time.monotonic() < end, left
        time.sleep(0.1)
