"""Batches on the device, made by a thread while the device computes the ones before."""

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


@contextmanager
def ahead(make: Callable[[T], Batch], order: Iterable[T], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Yield an iterator over `make` of each of `order`, on the device; a thread is AHEAD batches ahead of their use.

    Not the processes of a DataLoader: each would open the shards anew, and Windows takes seconds to start one. For CUDA
    memory is pinned and copied on a stream of its own. What `make` raises is raised where its batch is due.
    """
    gpu = device.type == "cuda"
    number = torch.cuda.current_device() if gpu else 0  # a thread starts with GPU 0
    stream = torch.cuda.Stream() if gpu else None

    def work(one: T) -> tuple[Batch, torch.cuda.Event | None]:
        batch = make(one)
        if stream is None:
            return batch, None
        with torch.cuda.stream(stream):
            sent = {name: values.pin_memory().to(device, non_blocking=True) for name, values in batch.items()}
            return sent, stream.record_event()

    def batches(maker: ThreadPoolExecutor) -> Iterator[Batch]:
        left, waiting = iter(order), deque[Future[tuple[Batch, torch.cuda.Event | None]]]()
        while True:
            waiting.extend(maker.submit(work, one) for one in islice(left, AHEAD + 1 - len(waiting)))
            if not waiting:
                return
            batch, copied = waiting.popleft().result()
            if copied is not None:
                torch.cuda.current_stream().wait_event(copied)
                for values in batch.values():
                    values.record_stream(torch.cuda.current_stream())
            yield batch

    maker = ThreadPoolExecutor(1, "batches", (lambda: torch.cuda.set_device(number)) if gpu else None)
    try:
        yield batches(maker)
    finally:
        maker.shutdown(cancel_futures=True)
