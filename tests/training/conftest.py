"""A data set of eight patients in several folds, encoded for one arm."""

from pathlib import Path

import pytest
from helpers.data import source_case
from helpers.models import UNET

from nightshift.config import params
from nightshift.core.io import write_json
from nightshift.core.records import ArmVerdict
from nightshift.data.locations import EXTERNAL, PREPARED
from nightshift.feature_cache import EncodeSettings, encode_arm, encode_nothing
from nightshift.ingest.prepared import write_cases, write_folds
from nightshift.ingest.splits import made_folds
from nightshift.model.kinds import prefix_of


@pytest.fixture
def folds(small):
    """folds(4, {...}): settings of an arm, and eight patients with a case each in so many folds, encoded.

    Two more are a second data set.
    """

    def made(count, values=None, arm="frozen"):
        settings = small({"prepare.folds": count, "train.epochs": 1, "arms.unet": UNET} | (values or {}), arm)
        cases = [source_case(i, f"p{i}") for i in range(8)]
        write_cases(PREPARED, cases, iter)
        write_folds(PREPARED, made_folds(cases, params.read().prepare))
        write_cases(EXTERNAL, [source_case(i) for i in (20, 21)], iter)
        prefix = prefix_of(settings)
        write_json(f"data/weights/{arm}.json", {"path": "random" if prefix else "none"})
        ArmVerdict(ok=True, prefix=prefix).write(Path(f"reports/probe/arms/{arm}.json"))
        if prefix is None:
            encode_nothing(arm)
        else:
            encode_arm(arm, EncodeSettings(**settings.model_dump(include=set(EncodeSettings.model_fields))), prefix)
        return settings

    return made
