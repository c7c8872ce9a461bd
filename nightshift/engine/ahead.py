"""Batches on the device; for a GPU they are made by a thread while it computes the ones before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

AHEAD = 2  # batches
Batch = dict[str, Tensor]
T = TypeVar("T")
Made = TypeVar("Made")


@contextmanager
def ahead(make: Callable[[T], Batch], order: Iterable[T], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Yield an iterator over `make` of each of `order`, on the device; what `make` raises is raised where it is due.

    For CUDA a thread makes them; memory is pinned and copied on a stream of its own. On the CPU there is no thread:
    OpenMP would have more threads than there are cores, and a LoRA step of the small encoder takes a fifth longer then.
    """
    if device.type != "cuda":
        yield map(make, order)
        return
    stream, number = torch.cuda.Stream(), torch.cuda.current_device()

    def work(one: T) -> tuple[Batch, torch.cuda.Event]:
        batch = make(one)
        with torch.cuda.stream(stream):
            sent = {name: values.pin_memory().to(device, non_blocking=True) for name, values in batch.items()}
            return sent, stream.record_event()

    def received(batch: Batch, copied: torch.cuda.Event) -> Batch:
        torch.cuda.current_stream().wait_event(copied)
        for values in batch.values():
            values.record_stream(torch.cuda.current_stream())
        return batch

    with by_thread(work, order, lambda: torch.cuda.set_device(number)) as made:  # a thread starts with GPU 0
        yield (received(*one) for one in made)


@contextmanager
def by_thread(
    make: Callable[[T], Made], order: Iterable[T], start: Callable[[], object] = lambda: None
) -> Iterator[Iterator[Made]]:
    """Yield an iterator over `make` of each of `order`; a thread, which calls `start` first, is AHEAD before their use.

    Not the processes of a DataLoader: each would open the shards anew, and Windows takes seconds to start one.
    """

    def made(maker: ThreadPoolExecutor) -> Iterator[Made]:
        left, waiting = iter(order), deque[Future[Made]]()
        while True:
            waiting.extend(maker.submit(make, one) for one in islice(left, AHEAD + 1 - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()

    maker = ThreadPoolExecutor(1, "batches", start)
    try:
        yield made(maker)
    finally:
        maker.shutdown(cancel_futures=True)
