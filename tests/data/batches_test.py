import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
# Two workers start; all get both signals that end a run, and the parent takes them for
# itself. In the end one worker is killed.
SCRIPT = """
import itertools, multiprocessing, os, signal, threading, time
import grain
from lsr_jax.data import batches
from lsr_jax.errors import TrainingError

def strike():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.002)
    for number in SIGNALS:
        os.killpg(0, number)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

def main():
    for number in SIGNALS:
        signal.signal(number, lambda number, _: print(signal.Signals(number).name))
    dataset = grain.MapDataset.range(1000).batch(2)
    threading.Thread(target=strike).start()
    with batches.Batches(dataset, list, workers=2) as read:
        print(*itertools.chain(*itertools.islice(read, 3)))
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        try:
            list(read)
        except TrainingError as error:
            print(error)
    print(multiprocessing.active_children())

if __name__ == "__main__":
    main()
"""


def test_workers_outlive_signals_to_all_and_their_death_is_one_line(tmp_path):
    script = tmp_path / "read.py"
    script.write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    # Python's tracker may say that it frees shared memory of the one that was killed.
    assert "Traceback" not in process.stderr
    *signals, numbers, error, left = process.stdout.splitlines()
    assert sorted(signals) == ["SIGINT", "SIGTERM"]
    assert numbers == "0 1 2 3 4 5"
    assert "a worker process died (exit code -9)" in error
    assert left == "[]"
