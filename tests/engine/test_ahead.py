"""Batches made ahead: the same ones in the same order, while the device computes; errors, and an end before the end."""

import threading
import time

import pytest
import torch

from nightshift.console.errors import UserError
from nightshift.engine.ahead import AHEAD, ahead, by_thread


def test_batches_come_in_order_and_not_too_far_ahead():
    made, started = [], []

    def make(i):
        made.append((i, threading.current_thread().name))
        return i

    with by_thread(make, range(7), lambda: started.append(threading.current_thread().name)) as batches:
        for expected, batch in enumerate(batches):
            time.sleep(0.01)
            assert batch == expected and len(made) <= expected + 1 + AHEAD
    assert [i for i, _ in made] == list(range(7)) and {name for _, name in made} == {"batches_0"} == set(started)
    with by_thread(make, []) as batches:
        assert list(batches) == []


def test_loading_and_computing_take_the_longer_of_both_and_not_their_sum():
    start = time.monotonic()
    with by_thread(lambda i: time.sleep(0.05), range(20)) as batches:
        for _ in batches:
            time.sleep(0.05)
    assert time.monotonic() - start < 1.25 * 20 * 0.05


def test_an_error_comes_where_its_batch_is_due():
    def make(i):
        if i == 2:
            raise UserError("case 2")
        return {"i": torch.tensor(i)}

    for batches_of in (lambda: by_thread(make, range(9)), lambda: ahead(make, range(9), torch.device("cpu"))):
        seen = []
        with pytest.raises(UserError, match="case 2"), batches_of() as batches:
            for batch in batches:
                seen.append(int(batch["i"]))
        assert seen == [0, 1]


def test_what_was_not_used_is_not_made():
    made = []
    with by_thread(made.append, range(1000)) as batches:
        next(batches)
    assert len(made) <= 1 + 2 * AHEAD and "batches_0" not in {thread.name for thread in threading.enumerate()}


def test_the_cpu_makes_its_batches_itself_when_they_are_due():
    made = []
    with ahead(lambda i: made.append(threading.current_thread()) or {}, range(9), torch.device("cpu")) as batches:
        next(batches)
    assert made == [threading.current_thread()]
