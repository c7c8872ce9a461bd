"""The comparison in words: every sentence and warning is written from the data, none is there for every run."""

from collections.abc import Callable
from statistics import fmean

from nightshift.reporting.load import ANGLES, ARMS, LABELS, STEPS, ArmResults, Row, group_names
from nightshift.reporting.significance import fewest_units, loss, per_unit, unit, units
from nightshift.carm import FAR, QUADRANTS, quadrant

HEADS = {"lora": "LoRA is better", "frozen": "Frozen is better", "undecided": "Undecided"}
FEW = 20  # patients, or cases to choose epoch and threshold by; fewer get a warning
VALUES = 12  # of a group's column; one with more, as remarks, is no grouping
MANY = 10_000  # patients: more than that is said, not counted
ABLATIONS = {
    "wrong_angles": f"the angles of another case, at least {FAR:.0f}\u00b0 away",
    "zero_angles": "all angles zero",
    "no_tokens": "the encoder's tokens replaced by their mean",
}


def answer(dice: Row, verdict: str, needed: int | None, arms: dict[str, ArmResults], level: float) -> tuple[str, str]:
    """Who is better, and the rest of the sentence: by how much, how sure, at what cost, and what would decide."""
    shown = f" {interval(dice['interval'])}" if dice["interval"] else ""
    parts = [f"LoRA {dice['delta']:+.3f} Dice{shown}", p_value(dice["p"])]
    frozen, lora = (arm.costs for arm in arms.values())
    if frozen and lora:
        seconds = [costs["encode"]["seconds"] + costs["train"]["seconds"] for costs in (frozen, lora)]
        more = lora["train"]["parameters_trained"] - frozen["train"]["parameters_trained"]
        parts.append(f"{ratio(*seconds)} the time to encode and train")
        parts.append(f"{_millions(abs(more))} {'more' if more >= 0 else 'fewer'} parameters trained")
    text = f"{', '.join(parts)}; {dice['lora']:.3f} against {dice['frozen']:.3f}, {units(arms['frozen'].cases)}."
    if verdict == "undecided":
        text += f" {needed_patients(dice['delta'], needed, level)}"
    return HEADS[verdict], text


def wins(frozen: dict[str, float], lora: dict[str, float]) -> str:
    """Who is ahead how often; Dice by case."""
    more, less = (sum(sign * (lora[case] - frozen[case]) > 0 for case in frozen) for sign in (1, -1))
    return f"LoRA has the higher Dice in {more} of {len(frozen)} test cases, the frozen arm in {less}."


def needed_patients(delta: float, needed: int | None, level: float) -> str:
    """What a next study would need, in a sentence."""
    if delta == 0:
        return "The arms do not differ: no number of patients would tell them apart."
    if needed is None:
        return "How many patients would decide it cannot be told from a single one."
    count = f"About {needed:,}" if needed <= MANY else f"More than {MANY:,}"
    return f"{count} patients would decide it at p < {level:g}, if the true difference is the one seen (power 80 %)."


def limits(arms: dict[str, ArmResults], level: float) -> list[str]:
    """What in these data limits the answer."""
    frozen, lora = arms.values()
    cases = list({row["case_id"]: row for row in frozen.cases}.values())
    n, found, fewest = len({unit(row) for row in cases}), [], fewest_units(level)
    lone, unseen = (sum(row[column] == "" for row in cases) for column in ("patient_id", "primary_angle"))
    if n < fewest:
        found.append(f"This cannot be decided with {units(cases)}: p < {level:g} needs at least {fewest}.")
    elif n < FEW:
        found.append(f"The test set has only {units(cases)}: single ones weigh heavily in every mean.")
    if lone:
        found.append(
            f"{lone} of {len(cases)} test cases have no patient id and count as a patient each: if several come from "
            "one patient, p is too small and the interval too narrow."
        )
    if unseen:
        found.append(f"{unseen} of {len(cases)} test cases have no C-arm angles: nothing can be said by view.")
    if frozen.cards and lora.cards:
        found += _limits_of_training(frozen, lora)
    return found


def left_out(skipped: Row) -> list[str]:
    """A sentence on the cases that prepare.on_problem: skip has left out; skipped: as reports/skipped.json has it."""
    problems = skipped["skipped"]
    if not problems:
        return []
    shown = "; ".join(f"{one['where']}: {one['what'].split('; ')[0]}" for one in problems[:3])
    more = f"; {len(problems) - 3} more in reports/skipped.json" if len(problems) > 3 else ""
    return [
        f"Of {skipped['total']} cases those with problems were left out (prepare.on_problem is skip), and a choice of "
        f"cases can bias a comparison: {shown}{more}."
    ]


def _limits_of_training(frozen: ArmResults, lora: ArmResults) -> list[str]:
    found, arms = [], dict(zip(ARMS, (frozen, lora), strict=True))
    chosen_by = min(card["cases"]["val"] for card in (*frozen.cards, *lora.cards))
    if chosen_by < FEW:
        found.append(f"Epoch and threshold were chosen by only {chosen_by} validation cases: the choice is noisy.")
    one, other = (_flat(arm.cards[0]["settings"]) for arm in (frozen, lora))
    unequal = [k for k in one.keys() & other.keys() if one[k] != other[k]]
    if unequal:
        what = ", ".join(f"{k} {one[k]} for frozen and {other[k]} for LoRA" for k in sorted(unequal))
        found.append(f"The arms were not trained alike: {what}.")
    if frozen.cards[0]["data_hash"] != lora.cards[0]["data_hash"]:
        found.append("The arms were trained on different data: their data hashes differ.")
    if {card["seed"] for card in frozen.cards} != {card["seed"] for card in lora.cards}:
        found.append("The arms were trained with different seeds.")
    for name, arm in arms.items():
        last = max(row["epoch"] for row in arm.curves)
        if late := [card["seed"] for card in arm.cards if card["epoch"] == last]:
            which = ", ".join(map(str, late))
            found.append(f"{LABELS[name]} was best in its last epoch (seed {which}): it may not be trained out.")
        if before := arm.costs["encode"].get("cases_before"):
            found.append(f"{LABELS[name]}: {before} cases were encoded before a kill; the time of that is not counted.")
    if all(len(arm.cards) == 1 for arm in arms.values()):
        found.append("Each arm was trained with one seed: how far chance in training moves them is not measured.")
    machines = [{str(arm.costs[step]["machine"]) for step in STEPS} for arm in (frozen, lora)]
    if machines[0] != machines[1]:
        found.append("The arms ran on different machines: their times do not compare.")
    if any(cost["revision"].endswith("+") for arm in arms.values() for cost in arm.costs.values()):
        found.append("There were uncommitted changes when this was made: the revisions below do not say all.")
    return found


def _flat(settings: Row, prefix: str = "") -> Row:
    """{"train": {"epochs": 24}} -> {"train.epochs": 24}"""
    flat: Row = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def ablation_rows(arms: dict[str, ArmResults], level: float) -> list[Row]:
    """Per ablation and arm: `what`, `arm`, `label`, `dice` with it, `delta`, `interval`; text: `range`, `p`, `words`"""
    rows = []
    for key, what in ABLATIONS.items():
        for name, arm in arms.items():
            lost = loss(arm.cases, [row for row in arm.ablations if row["ablation"] == key], level)
            if lost is None:
                continue
            numbers = {
                "dice": lost["dice"],
                "delta": lost["delta"],
                "interval": lost["interval"],
                "range": interval(lost["interval"]),
                "p": p_value(lost["p"]),
            }
            mode = arm.cards[0]["settings"]["view"]["mode"] if arm.cards else ""
            words = _ablated(key, LABELS[name], lost, float(per_unit(arm.cases, "dice").mean()), mode, level)
            rows.append({"what": what, "arm": name, "label": LABELS[name], "words": words} | numbers)
    return rows


def _ablated(key: str, label: str, lost: Row, whole: float, mode: str, level: float) -> str:
    """One sentence on what an ablation did to an arm."""
    by = f"{lost['delta']:+.3f} Dice {interval(lost['interval'])}"
    sure = lost["p"] < level
    if key == "no_tokens":
        if not sure or lost["delta"] > 0:
            does = "does better" if sure else "may lose nothing, too few cases to say"
            return f"Without the encoder {label} {does} ({by}): nothing shows that it uses the encoder."
        kept = lost["dice"] / whole if whole else 0.0
        return f"Without the encoder {label} keeps {kept:.0%} of its Dice ({by}): the rest comes from the tokens."
    given = "Wrong angles" if key == "wrong_angles" else "Angles of zero"
    if not lost["changed"]:
        why = ", because view.mode is none" if mode == "none" else ""
        return f"{given} change nothing for {label}{why}."
    if not sure:
        return f"{given} make no difference for {label} that these cases could show ({by})."
    if lost["delta"] > 0:
        return f"{given} make {label} better ({by}): the view does it harm."
    return f"{given} cost {label} {-lost['delta']:.3f} Dice ({by}): it uses the view."


def view_rows(frozen: list[Row], lora: list[Row]) -> list[tuple[str, ...]]:
    """(quadrant, cases, Dice of both arms, difference) as text; each a mean over cases and seeds. Empty: no angles."""
    rows, known = [], [row for row in frozen if row[ANGLES[0]] != ""]
    for name in QUADRANTS:
        chosen = {r["case_id"] for r in known if quadrant(*(float(r[angle]) for angle in ANGLES)) == name}
        if chosen:
            rows.append(_row_of(name, chosen, frozen, lora))
    return rows


def group_rows(frozen: list[Row], lora: list[Row]) -> dict[str, list[tuple[str, ...]]]:
    """As `view_rows`, a row per value, for each column of the source's own that has two to VALUES of them.

    A case's group is what the frozen arm's rows say: a column may have come after one arm was evaluated.
    """
    found = {}
    for name in group_names(frozen):
        values = {row[name] for row in frozen}
        if 2 <= len(values) <= VALUES:
            order = sorted(values, key=lambda v: (v == "", v.zfill(8) if v.isdecimal() else v))
            members = {v: {r["case_id"] for r in frozen if r[name] == v} for v in order}
            found[name] = [_row_of(v or "not given", cases, frozen, lora) for v, cases in members.items()]
    return found


def _row_of(what: str, cases: set[str], frozen: list[Row], lora: list[Row]) -> tuple[str, ...]:
    a, b = (fmean(r["dice"] for r in rows if r["case_id"] in cases) for rows in (frozen, lora))
    return what, str(len(cases)), f"{a:.3f}", f"{b:.3f}", f"{b - a:+.3f}"


def cost_rows(arms: dict[str, ArmResults]) -> list[tuple[str, str, str, str]]:
    """(what, frozen, LoRA, LoRA / frozen) as text; nothing where no costs are known."""
    frozen, lora = (arm.costs for arm in arms.values())
    if not frozen or not lora:
        return []

    def row(name: str, step: str, key: str, show: Callable[[float], str]) -> tuple[str, str, str, str]:
        a, b = frozen[step].get(key) or 0, lora[step].get(key) or 0
        return name, show(a), show(b), ratio(a, b)

    rows = [
        row("Encoding", "encode", "seconds", duration),
        row("Training, all seeds", "train", "seconds", duration),
        row("Training, an epoch", "train", "seconds_per_epoch", duration),
        row("Training, cases per second", "train", "cases_per_second", lambda n: f"{n:,.1f}"),
        row("Evaluation, all seeds", "evaluate", "seconds", duration),
        row("Peak memory in training", "train", "peak_memory_bytes", _gigabytes),
        row("Peak memory of the GPU in training", "train", "peak_device_memory_bytes", _gigabytes),
        row("Parameters trained", "train", "parameters_trained", lambda n: f"{n:,}"),
    ]
    return [one for one in rows if one[1] != _gigabytes(0)]


def interval(ends: list[float] | None) -> str:
    """An end near 0 is given more digits: on which side of it the end lies decides."""
    if not ends:
        return "unbounded"
    return "[{}, {}]".format(*(f"{end:.1g}" if 0 < abs(end) < 0.0005 else f"{end:.3f}" for end in ends))


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.4f}" if p < 0.1 else f"p = {p:.2f}"


def ratio(a: float, b: float) -> str:
    """b over a."""
    return "-" if not a else "<0.1x" if b / a < 0.05 else f"{b / a:.1f}x"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _millions(n: int) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e5 else f"{n:,}"


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
