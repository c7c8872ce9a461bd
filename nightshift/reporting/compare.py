"""Two arms, compared: the numbers, the verdict that follows from them, and everything that is written about it."""

from pathlib import Path

from nightshift.reporting import figures
from nightshift.reporting import overlays
from nightshift.reporting import render as report
from nightshift.core.io import write_csv, write_json, write_text
from nightshift.evaluation.measures import MEASURES, MILLIMETRES
from nightshift.reporting.render import About
from nightshift.reporting.load import ARMS, CURVES, ArmResults, Row
from nightshift.reporting.significance import compare, holm, mean_interval, patients_needed, per_unit, six, size, verdict

COLUMNS = ("measure", "frozen", "lora", "delta", "low", "high", "p", "p_holm")


def summary(frozen: list[Row], lora: list[Row], level: float) -> Row:
    """`measures` (by name what `statistics.compare` gives, and `p_holm`), `verdict`, `patients_needed`, `arms`, sizes.

    `millimetres`: two of the measures again, in another unit, where known; so they are not counted among them.
    The verdict rests on Dice alone, chosen before anything was seen, so its own p is not corrected; `patients_needed`
    is of the undecided only. Rows as in evaluation's cases.csv. Raises UserError if the arms have different cases.
    """
    measures = {name: compare(frozen, lora, name, level) for name in MEASURES}
    for name, p in holm({name: found["p"] for name, found in measures.items()}).items():
        measures[name]["p_holm"] = six(p)
    known = [name for name in MILLIMETRES if name in frozen[0] and name in lora[0]]
    dice = {name: per_unit(rows, "dice") for name, rows in zip(ARMS, (frozen, lora), strict=True)}
    decision = verdict(measures["dice"], level)
    return {
        "measures": measures,
        "millimetres": {name: compare(frozen, lora, name, level) for name in known},
        "verdict": decision,
        "patients_needed": patients_needed(dice["lora"] - dice["frozen"], level) if decision == "undecided" else None,
        "level": level,
        "arms": {name: {"ci95": mean_interval(values)} for name, values in dice.items()},
        **size(frozen),
    }


def write(arms: dict[str, ArmResults], level: float, about: About, folder: Path) -> None:
    """metrics.json, measures.csv, plots/, report.html and report.md -> folder; the answer goes to stdout.

    Raises UserError, before anything is written, for cases that differ and pictures that are missing.
    """
    found = summary(*(arm.cases for arm in arms.values()), level)
    panels = overlays.panels(arms)
    contents = report.contents(arms, found, panels, about)
    pages = {name: report.render(f"{name}.j2", contents) for name in ("report.html", "report.md")}
    write_json(folder / "metrics.json", _metrics(found))
    measures = found["measures"] | found["millimetres"]
    write_csv(folder / "measures.csv", COLUMNS, [_row(name, numbers) for name, numbers in measures.items()])
    if all(arm.curves for arm in arms.values()):
        figures.write_png(folder / "plots/curves.png", report.curves(arms, list(CURVES)))
    figures.write_png(folder / "plots/cases.png", figures.dumbbells(*report.dice_by_case(arms), "test case"))
    figures.write_png(folder / "plots/overlays.png", overlays.overlays(panels))
    for name, text in pages.items():
        write_text(folder / name, text)
    print(f"{contents['head']}: {contents['rest']}")
    print(f"report: {(folder / 'report.html').as_posix()}")


def _metrics(found: Row) -> Row:
    """What DVC shows in a row: Dice, and what was made of it. Lists are left out there, so they add no column."""
    dice = {key: found["measures"]["dice"][key] for key in ("frozen", "lora", "delta", "ci95", "p")}
    others = ("verdict", "level", "patients_needed", "arms", "cases", "patients")
    return {"dice": dice} | {key: found[key] for key in others}


def _row(name: str, numbers: Row) -> Row:
    low, high = numbers["interval"] or (None, None)
    return {"measure": name, "low": low, "high": high} | {key: numbers[key] for key in COLUMNS if key in numbers}
