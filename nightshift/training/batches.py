"""Batches of training cases on the device: of cases that all lie there, or made ahead of their use."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from nightshift.console.progress import gigabytes, say
from nightshift.data.samples import TrainingCases
from nightshift.engine.ahead import Batch, ahead

SHARE = 0.1  # of the GPU's free memory: what the cases may take, before the model and its gradients do
AT_ONCE = 8  # cases that are sent together


class Batches:
    """`batches(order)`: a context with an iterator over the batches of an epoch, lists of numbers of cases.

    On a GPU all cases are kept there, where they take at most SHARE of its free memory: to load an epoch of the frozen
    arm takes longer than to compute it.
    """

    def __init__(self, cases: TrainingCases, device: torch.device) -> None:
        self._cases, self._device, self._held = cases, device, Batch()
        count = len(cases) * (1 + cases.settings.augment.variants)
        if device.type != "cuda" or cases.online:
            return
        one = cases.batch([0])
        size = count * sum(values.nbytes for values in one.values())
        if size > SHARE * torch.cuda.mem_get_info(device)[0]:
            return
        self._held = {name: values.new_empty((count, *values.shape[1:]), device=device) for name, values in one.items()}
        order = torch.arange(count).split(AT_ONCE)
        with ahead(cases.batch, [part.tolist() for part in order], device) as batches:
            for part, batch in zip(order, batches, strict=True):
                for name, values in batch.items():
                    self._held[name][part[0] : part[-1] + 1] = values
        say(f"all {count} cases are kept on the GPU, {gigabytes(size)}")

    def __call__(self, order: Sequence[Sequence[int]]) -> AbstractContextManager[Iterator[Batch]]:
        if self._held:
            return nullcontext(map(self._take, order))
        return ahead(self._cases.batch, order, self._device)

    def _take(self, numbers: Sequence[int]) -> Batch:
        which = torch.tensor(numbers, dtype=torch.long).pin_memory().to(self._device, non_blocking=True)
        return {name: values[which] for name, values in self._held.items()} if numbers else {}
