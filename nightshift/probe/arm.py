"""Whether the configured encoder runs, and is right, as one arm uses it."""

from typing import Any

from nightshift.backbone.encoder import ViT
from nightshift.config.kinds import AnyArm
from nightshift.config.params import ArmSettings, EncoderSettings
from nightshift.config.sections import Head, View
from nightshift.core.records import ArmVerdict
from nightshift.model.kinds import kind_of
from nightshift.probe.cases import ProbeCase, shape_case


class ProbeArm(EncoderSettings):
    """What the verdict depends on: the encoder, and what the arm puts into it."""

    name: str
    arm: AnyArm

    @property
    def settings(self) -> ArmSettings:
        """As a kind takes them, with the smallest head; without what no verdict depends on (use, encode, train)."""
        values: dict[str, Any] = dict(self) | {"head": Head(width=8, detail=False), "view": View(mode="none")}
        return ArmSettings.model_construct(**values)


def verdict_of(arm: ProbeArm) -> ArmVerdict:
    """The arm's model on the meta device, run at the configured resolution; and the prefix of which the output is kept.

    Shapes alone decide, so no weights are needed.
    """
    kind = kind_of(arm.settings)
    trunk: ViT = kind.build(arm.settings, "meta").neck.trunk
    case = shape_case(arm.name, trunk, (arm.resolution, arm.resolution), table=arm.encoder.rope)
    cause, cure = _explained(case, arm)
    return ArmVerdict(ok=case.outcome == "ok", cause=cause, cure=cure, prefix=kind.prefix(arm.settings))


def _explained(case: ProbeCase, arm: EncoderSettings) -> tuple[str, str]:
    """Cause and cure by the keys of params.yaml, empty for a case that is right.

    Settings refuse a resolution that is no multiple of the patch, so only the grid of the tables can be wrong here.
    """
    if case.outcome == "ok":
        return "", ""
    return (
        f"at {case.height} px the table of block {case.block} is {case.table_shape} and the tokens need "
        f"{case.expected_shape}",
        f"Set encoder.rope to repaired, or encoder.resolution to {arm.preset.img_size}, which the tables are made for",
    )
