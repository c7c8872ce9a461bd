"""Experiments as a table: numbers of each arm, and the settings that are not equal in all."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from nightshift.commands.experiments import Experiment, text_of


def arms_of(found: Sequence[Experiment]) -> list[str]:
    """All arms that have a result, the reference of the first row first."""
    metrics = [one.metrics for one in found if one.metrics]
    return list(dict.fromkeys([m.reference for m in metrics[:1]] + [arm for m in metrics for arm in m.arms]))


def table(found: Sequence[Experiment], arms: Sequence[str]) -> pd.DataFrame:
    """A row for each experiment, missing values where there is nothing.

    `best` is the other arm that is farthest above the `reference`, `delta` by how much in Dice (0 to 1), `p` corrected
    for the number of arms. Of each arm `ARM.dice`, its 95 % interval `ARM.low` to `ARM.high`, `ARM.delta`, `ARM.p`, and
    `ARM.seconds` of encoding, training and evaluation.
    """
    rows = []
    for one in found:
        best, against = one.best or (None, None)
        low, high = (against.ci95 if against else None) or (None, None)
        row: dict[str, Any] = {
            "rank": one.rank,
            "experiment": ", ".join(one.names) or one.revision,
            "why_not_ranked": one.why,
            "reference": one.metrics.reference if one.metrics else None,
            "best": best,
            "delta": against.delta if against else None,
            "delta_low": low,
            "delta_high": high,
            "p": against.p_holm if against else None,
            "verdict": one.metrics.verdict if one.metrics else None,
            "recommended": one.metrics.recommended if one.metrics else None,
        }
        for arm in arms:
            row |= _numbers(one, arm)
        row["patients"] = one.metrics.patients if one.metrics else None
        rows.append(row | {"created": one.created, "revision": one.revision})
    return pd.DataFrame(rows).astype({"rank": "Int64", "patients": "Int64"})


def _numbers(one: Experiment, arm: str) -> dict[str, float | None]:
    own = one.metrics.arms.get(arm) if one.metrics else None
    against = one.metrics.against.get(arm) if one.metrics else None
    low, high = (own.ci95 if own else None) or (None, None)
    return {
        f"{arm}.dice": own.dice if own else None,
        f"{arm}.low": low,
        f"{arm}.high": high,
        f"{arm}.delta": against.delta if against else None,
        f"{arm}.p": against.p_holm if against else None,
        f"{arm}.seconds": one.seconds.get(arm),
    }


def differing(found: Sequence[Experiment]) -> pd.DataFrame:
    """Settings that are not equal in all, as text, a column for each, named as `dvc exp run -S` takes it.

    An arm that some of them do not have is one column.
    """
    everywhere = set.intersection(*(set(one.settings.get("arms", {})) for one in found))
    frame = pd.DataFrame([_flat(one.settings, everywhere) for one in found]).fillna("")
    return frame.loc[:, frame.nunique() > 1]


def _flat(settings: dict[str, Any], everywhere: set[str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for section, values in settings.items():
        if section == "arms":
            for arm, own in values.items():
                whole = yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=10**6).strip()
                inner = {f".{key}": text_of(value) for key, value in own.items()} if arm in everywhere else {"": whole}
                flat |= {f"arms.{arm}{key}": text for key, text in inner.items()}
        elif isinstance(values, dict):
            flat |= {f"{section}.{key}": text_of(value) for key, value in values.items()}
        else:
            flat[section] = text_of(values)
    return flat
