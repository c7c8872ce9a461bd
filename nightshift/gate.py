"""No arm starts on a configuration that the probe found to fail."""

from pathlib import Path

from nightshift.errors import UserError
from nightshift.files import read_json


def require_ok(arm: str) -> None:
    """Raises UserError with cause and cure when reports/probe/ARM.json is not ok."""
    verdict = read_json(Path("reports/probe") / f"{arm}.json")
    if not verdict["ok"]:
        raise UserError(f"the probe refuses the {arm} arm: {verdict['cause']}. {verdict['cure']}")
