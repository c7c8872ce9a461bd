"""What an arm is trained on: cases with what was kept of their encoding, and mirrored ones."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nightshift.config.params import ArmSettings
from nightshift.console.errors import UserError
from nightshift.core.records import LEVELS
from nightshift.data.augmentation import varied_case
from nightshift.data.channels import input_of
from nightshift.data.dataset import Case, Cases
from nightshift.data.letterbox import mask_to_square
from nightshift.data.shards import Shards

REMEMBERED = 2**28  # bytes of the cases that took long to make


class TrainingCases(torch.utils.data.Dataset[dict[str, Tensor | int]]):
    """Per case a dict of `index`, `angles` (2,), `target` (1, R, R), and one of

    `tokens` (g, g, D), `level.0` .. `level.2`, both in the precision that they are kept in, or `images` (3, R, R). With
    n cases, number v n + i is variant v of case i.
    """

    def __init__(self, cases: Cases, kept: Shards | None, settings: ArmSettings) -> None:
        """`kept`: of all cases of the data set, by their number in it."""
        self.cases, self.kept, self.settings = cases, kept, settings
        self._read: Callable[[int], dict[str, Tensor | int]] = self._read_again
        if settings.augment.variants or settings.channels != "grey":  # that takes longer than a step of a small model
            self._read = lru_cache(remembered(settings))(self._read_again)

    @property
    def online(self) -> bool:
        """Whether every epoch draws variants that are in no other one; else there are `augment.variants` of a case."""
        return self.kept is None and self.settings.augment.online

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[dict[str, Tensor | int]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        item = dict(self._read(i))
        variant, place = divmod(i, len(self.cases))
        number = self.cases.numbers[place] + variant * self.cases.total
        for name in ("tokens", *(f"level.{number}" for number in range(LEVELS))):
            if self.kept is not None and (array := f"{name}.{number}") in self.kept.index:
                item[name] = self.kept[array]
        return item

    def _read_again(self, i: int) -> dict[str, Tensor | int]:
        """The item without what is kept of the encoder."""
        case, resolution = varied_case(self.cases, i, self.settings.augment), self.settings.resolution
        item: dict[str, Tensor | int] = {
            "index": i,
            "angles": torch.tensor(angles_of(case, self.settings.view.mode)),
            "target": mask_to_square(case.mask, resolution),
        }
        if self.kept is None or self.settings.needs_images:
            item["images"] = input_of(case.frame, resolution, self.settings.channels)
        return item

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Some of them as one, empty for none."""
        return default_collate([self[i] for i in numbers]) if numbers else {}


def remembered(settings: ArmSettings) -> int:
    """Number of cases, with their variants, that take no more than REMEMBERED: images and targets in float32."""
    return REMEMBERED // (16 * settings.resolution**2)


def angles_of(case: Case, mode: str) -> tuple[float, float]:
    """The case's angles in degrees, (0, 0) where view.mode is none: they are not used then.

    Raises UserError for a case without angles where they are used.
    """
    if mode == "none":
        return 0.0, 0.0
    if case.angles is None:
        raise UserError(
            f"case '{case.case_id}' has no view angles, and params.yaml says view.mode: {mode}; "
            "give it angles or set view.mode=none"
        )
    return case.angles
