"""What benchmarks.gpu does with its rows, and what it reads from a trace."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu, timing
from lsr_jax.errors import InputError

QUICK = ["--minutes=1", "--quick"]


@pytest.fixture
def rows(monkeypatch):
    """Rows that only write the numbers they are asked for, and a machine without a GPU."""
    started = []

    def measured(row, out, environment, quick, seconds):
        assert quick
        assert 0 < seconds <= 60
        (out / f"{row.name}.json").touch()
        started.append(row.name)
        return "measured"

    monkeypatch.setattr(gpu, "machine", lambda environment: ("cpu", 1))
    monkeypatch.setattr(gpu, "measured", measured)
    return started


def test_rows_run_once_in_their_order(rows, tmp_path, capsys):
    gpu.main([*QUICK, f"--out={tmp_path}"])
    assert rows[0] == "step"
    assert "scaling" not in rows
    assert "scaling: needs several devices" in capsys.readouterr().out
    count = len(rows)
    again = dict(row[:2] for row in gpu.main([*QUICK, f"--out={tmp_path}"])[1:])
    assert len(rows) == count
    assert again["step"] == "measured before"


def test_no_row_starts_after_the_minutes(rows, tmp_path):
    result = gpu.main(["--minutes=0", "--quick", f"--out={tmp_path}"])
    assert rows == []
    assert ("step", "no time left", "0") in result


def test_without_a_gpu(rows, tmp_path):
    with pytest.raises(InputError, match="finds no GPU, its platform is 'cpu'"):
        gpu.main(["--minutes=1", f"--out={tmp_path}"])


# Of a type of jaxlib 0.11 on Python 3.12; as an error it ends the process.
@pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__")
def test_longest_operations_of_a_trace(tmp_path):
    product = jax.jit(lambda x: jnp.sin(x @ x))
    x = jnp.ones((256, 256))
    product(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        product(x).block_until_ready()
    kernels = gpu.longest(tmp_path)
    assert 0 < len(kernels) <= gpu.KERNELS
    assert any("sin" in kernel["operation"] for kernel in kernels)
    times = [kernel["milliseconds"] for kernel in kernels]
    assert times == sorted(times, reverse=True)


def test_a_command_ends_with_one_line_for_bad_input(capsys):
    def main():
        raise InputError("size: expected 1,\nfound 2")

    with pytest.raises(SystemExit) as end:
        timing.command(main)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: size: expected 1, found 2\n"
