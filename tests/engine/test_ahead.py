"""Batches made ahead: the same ones in the same order, while the device computes; errors, and an end before the end."""

import threading
import time

import pytest
import torch

from nightshift.console.errors import UserError
from nightshift.engine.ahead import AHEAD, ahead

CPU = torch.device("cpu")


def test_batches_come_in_order_and_not_too_far_ahead():
    made = []

    def make(i):
        made.append((i, threading.current_thread().name))
        return {"i": torch.tensor(i)}

    with ahead(make, range(7), CPU) as batches:
        for expected, batch in enumerate(batches):
            time.sleep(0.01)
            assert batch["i"] == expected and len(made) <= expected + 1 + AHEAD
    assert [i for i, _ in made] == list(range(7)) and {name for _, name in made} == {"batches_0"}
    with ahead(make, [], CPU) as batches:
        assert list(batches) == []


def test_loading_and_computing_take_the_longer_of_both_and_not_their_sum():
    def make(i):
        time.sleep(0.05)
        return {}

    start = time.monotonic()
    with ahead(make, range(20), CPU) as batches:
        for _ in batches:
            time.sleep(0.05)
    assert time.monotonic() - start < 1.25 * 20 * 0.05


def test_an_error_comes_where_its_batch_is_due():
    def make(i):
        if i == 2:
            raise UserError("case 2")
        return {"i": torch.tensor(i)}

    seen = []
    with pytest.raises(UserError, match="case 2"), ahead(make, range(9), CPU) as batches:
        for batch in batches:
            seen.append(int(batch["i"]))
    assert seen == [0, 1]


def test_what_was_not_used_is_not_made():
    made = []
    with ahead(lambda i: made.append(i) or {}, range(1000), CPU) as batches:
        next(batches)
    assert len(made) <= 1 + 2 * AHEAD and "batches_0" not in {thread.name for thread in threading.enumerate()}
