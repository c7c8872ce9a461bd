"""Whether the configured encoder runs, and is right, as one arm uses it."""

from typing import Any

from nightshift.config.kinds import AnyArm
from nightshift.config.params import EncoderArmSettings, EncoderSettings
from nightshift.config.presets import Encoder, Section
from nightshift.config.sections import EncoderUse, Head, View
from nightshift.core.records import ArmVerdict
from nightshift.model.kinds import kind_of
from nightshift.model.segmentation import SegmentationModel
from nightshift.probe.cases import ProbeCase, shape_case


class ProbeArm(Section):
    """What the verdict depends on: what the arm puts into the encoder, and the encoder, where the arm has one."""

    name: str
    arm: AnyArm
    encoder: EncoderUse | None = None
    preset: Encoder | None = None


def verdict_of(arm: ProbeArm) -> ArmVerdict:
    """The arm's model on the meta device, run at the configured resolution; and the prefix of which the output is kept.

    Shapes alone decide, so no weights are needed; and the head, the smallest one, has no say. An arm without an encoder
    has no position tables that could be wrong.
    """
    if arm.encoder is None:
        return ArmVerdict(ok=True)
    values: dict[str, Any] = dict(arm) | {"head": Head(width=8, detail=False), "view": View(mode="none")}
    settings = EncoderArmSettings.model_construct(**values)
    kind = kind_of(settings)
    model = kind.build(settings, "meta")
    assert isinstance(model, SegmentationModel)  # as every kind with an encoder builds
    side = settings.resolution
    case = shape_case(arm.name, model.neck.trunk, (side, side), table=arm.encoder.rope)
    cause, cure = _explained(case, settings)
    return ArmVerdict(ok=case.outcome == "ok", cause=cause, cure=cure, prefix=kind.prefix(settings))


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
