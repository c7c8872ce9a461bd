"""What an arm is trained on: cases with what was kept of their encoding, and mirrored ones."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nightshift.config.params import ArmSettings
from nightshift.console.errors import UserError
from nightshift.core.records import LEVELS
from nightshift.data.augmentation import varied_case
from nightshift.data.dataset import Case, Cases
from nightshift.data.letterbox import frame_to_square, mask_to_square
from nightshift.data.shards import Shards


class TrainingCases(torch.utils.data.Dataset[dict[str, Tensor | int]]):
    """Per case a dict of `index`, `angles` (2,), `target` (1, R, R), and one of

    `tokens` (g, g, D), `level.0` .. `level.2`, both in the precision that they are kept in, or `images` (3, R, R). With
    n cases, number v n + i is variant v of case i.
    """

    def __init__(self, cases: Cases, kept: Shards | None, settings: ArmSettings) -> None:
        """`kept`: of all cases of the data set, by their number in it."""
        self.cases, self.kept, self.settings = cases, kept, settings

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        if i >= len(self.cases) * (1 + self.settings.augment.variants):
            raise IndexError(i)  # which is also how Python ends an iteration
        case, resolution = varied_case(self.cases, i, self.settings.augment), self.settings.resolution
        variant, place = divmod(i, len(self.cases))
        number = self.cases.numbers[place] + variant * self.cases.total
        item: dict[str, Tensor | int] = {
            "index": i,
            "angles": torch.tensor(angles_of(case, self.settings.view.mode)),
            "target": mask_to_square(case.mask, resolution),
        }
        for name in ("tokens", *(f"level.{number}" for number in range(LEVELS))):
            if self.kept is not None and (array := f"{name}.{number}") in self.kept.index:
                item[name] = self.kept[array]
        if self.kept is None or self.settings.needs_images:
            item["images"] = frame_to_square(case.frame, resolution)
        return item

    def batch(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Some of them as one, empty for none."""
        return default_collate([self[i] for i in numbers]) if numbers else {}


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
