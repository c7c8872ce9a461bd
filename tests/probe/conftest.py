"""The probe's cases, asked once for all tests of this folder."""

import pandas as pd
import pytest

from nightshift.config import params
from nightshift.probe import summary
from nightshift.probe.cases import ProbeCase, all_cases


@pytest.fixture(scope="session")
def cases(pytestconfig: pytest.Config) -> list[ProbeCase]:
    """All in-process cases of the shipped settings."""
    return all_cases(params.read(folder=pytestconfig.rootpath).probe.resolutions, ddp=False)


@pytest.fixture(scope="session")
def frame(cases: list[ProbeCase]) -> pd.DataFrame:
    return summary.frame_of(cases)
