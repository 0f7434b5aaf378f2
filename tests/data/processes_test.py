import itertools
import operator
import os

import pytest

from lsr_jax.data import processes


def test_one_worker_is_this_process():
    assert processes.make_pool(1) is None
    assert list(processes.ordered(None, operator.neg, range(5))) == [0, -1, -2, -3, -4]


def test_results_come_in_order_and_are_bounded():
    with processes.make_pool(2) as pool:
        taken = itertools.count()
        jobs = (next(taken) for _ in range(100))
        results = processes.ordered(pool, operator.neg, jobs, ahead=8)
        assert [next(results) for _ in range(3)] == [0, -1, -2]
        assert next(taken) <= 3 + 8
        results.close()
        assert pool.submit(os.getpid).result() != os.getpid()
        with pytest.raises(ZeroDivisionError):
            list(processes.ordered(pool, (1).__truediv__, [1, 0]))
