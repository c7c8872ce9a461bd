"""What limits the answer, in sentences: too few patients, arms that were not trained alike, cases left out."""

from collections.abc import Mapping
from typing import Any

from nightshift.config.kinds import WithoutEncoder
from nightshift.config.presets import AnyData, BySplit, Manifest
from nightshift.core.records import SimilarFrames, Skipped
from nightshift.model.card import Card
from nightshift.reporting.load import ANGLES, STEPS, ArmResults
from nightshift.reporting.significance import fewest_units, patients_of, units
from nightshift.reporting.styles import in_words, inside, label

FEW = 20  # patients, or cases to choose epoch and threshold by; fewer get a warning
# Settings that may differ: what an arm is, what changes no result, and the seeds, which have a sentence of their own.
OWN = ("name", "arm.", "encoder.resolution", "train.micro_batch", "train.seeds")


def limits(arms: Mapping[str, ArmResults], level: float) -> list[str]:
    """What in these data limits the answer."""
    rows = next(iter(arms.values())).cases
    cases = rows.drop_duplicates("case_id")
    n, sentences, fewest = patients_of(cases).nunique(), [], fewest_units(level)
    lone, unseen = int((cases["patient_id"] == "").sum()), int(cases[ANGLES[0]].isna().sum())
    if n < fewest and len(arms) > 1:
        sentences.append(f"This cannot be decided with {units(cases)}: p < {level:g} needs at least {fewest}.")
    elif n < FEW:
        sentences.append(f"The test set has only {units(cases)}: single ones weigh heavily in every mean.")
    if lone:
        sentences.append(
            f"{lone} of {len(cases)} test cases have no patient id and count as a patient each: if several come from "
            "one patient, p is too small and the interval too narrow."
        )
    if unseen:
        sentences.append(f"{unseen} of {len(cases)} test cases have no C-arm angles: nothing can be said by view.")
    return sentences + (_of_training(arms) if all(arm.cards for arm in arms.values()) else [])


def _of_training(arms: Mapping[str, ArmResults]) -> list[str]:
    """As `limits`, from the models, their curves and costs."""
    sentences = []
    trained = {name: arm for name, arm in arms.items() if arm.trained}
    chosen_by = min(card.cases["val"] for arm in arms.values() for card in arm.cards)
    if chosen_by < FEW:
        sentences.append(f"Epoch and threshold were chosen by only {chosen_by} validation cases: the choice is noisy.")
    if len({arm.cards[0].data_hash for arm in arms.values()}) > 1:
        sentences.append("The arms were trained on different data: their data hashes differ.")
    if len({frozenset(card.seed for card in arm.cards) for arm in trained.values()}) > 1:
        sentences.append("The arms were trained with different seeds.")
    for name, arm in arms.items():
        last = arm.curves.groupby(["fold", "seed"])["epoch"].max()
        late = [model_name(card, arm) for card in arm.cards if card.epoch == last[card.fold, card.seed] > 0]
        if late:
            which = "every model" if len(late) == len(arm.cards) > 1 else in_words(late)
            sentences.append(f"{label(name)} was best in its last epoch ({which}): it may not be trained out.")
        if ends := _at_the_end(arm):
            sentences.append(
                f"{label(name)} took the {ends} of the learning rates that were tried: a further one may be better."
            )
        if before := arm.costs["encode"].cases_before:
            sentences.append(
                f"{label(name)}: {before} cases were encoded before a kill; the time of that is not counted."
            )
    if (online := [name for name in trained if _online(arms[name])]) and len(online) < len(trained):
        kept = in_words([inside(name) for name in trained if name not in online])
        drawn = "the same few" if arms[online[0]].cards[0].settings.augment.variants else "none"
        sentences.append(
            f"The arms were not augmented alike: {in_words([inside(name) for name in online])} saw new variants of the "
            f"training cases in every epoch, {kept} {drawn}."
        )
    if trained and all(len({card.seed for card in arm.cards}) == 1 for arm in trained.values()):
        sentences.append("Each arm was trained with one seed: how far chance in training moves them is not measured.")
    machines = {frozenset(str(arm.costs[step].machine) for step in STEPS) for arm in arms.values()}
    if len(machines) > 1:
        sentences.append("The arms ran on different machines: their times do not compare.")
    if any(cost.revision.endswith("+") for arm in arms.values() for cost in arm.costs.values()):
        sentences.append("There were uncommitted changes when this was made: the revisions below do not say all.")
    return sentences


def _online(arm: ArmResults) -> bool:
    """Whether each epoch of its training had variants of its own, as nothing of its encoding is kept."""
    prefix = arm.probe and arm.probe.prefix
    return arm.cards[0].settings.augment.online and not (prefix and prefix.blocks)


def model_name(card: Card, arm: ArmResults) -> str:
    """`seed 0`, or `fold 2, seed 0` where there are several folds."""
    folds = len({one.fold for one in arm.cards})
    return (f"fold {card.fold}, " if folds > 1 else "") + f"seed {card.seed}"


def _at_the_end(arm: ArmResults) -> str:
    """`largest`, `smallest`, both or nothing: the ends of the list of learning rates that were taken in some fold."""
    taken = {card.learning_rate for card in arm.cards if card.tried}
    tried = [float(rate) for card in arm.cards for rate in card.tried]
    ends = (("smallest", min(tried, default=None)), ("largest", max(tried, default=None)))
    names = [name for name, rate in ends if rate in taken]
    return in_words(names) if names else ""


def not_alike(arms: Mapping[str, ArmResults]) -> list[str]:
    """A sentence on the settings that differ between the arms that have them; none where there are no such settings."""
    if not all(arm.cards for arm in arms.values()):
        return []
    settings = {name: _settings(arm) for name, arm in arms.items()}
    different = []
    for key in sorted(set().union(*settings.values())):
        values = {name: of_arm[key] for name, of_arm in settings.items() if key in of_arm}
        if len(set(map(str, values.values()))) > 1:
            different.append(_values(key, values))
    return [f"The arms were not trained alike: {', '.join(different)}."] if different else []


def _settings(arm: ArmResults) -> dict[str, object]:
    """The settings of an arm that should be those of all arms, by key: without OWN and what it does not use."""
    settings = arm.cards[0].settings
    unused = (*OWN, *(() if arm.trained else ("train.", "channels")), *(() if settings.arm.uses_view else ("view.",)))
    flat = _flat(settings.model_dump(mode="json")) | {"resolution": settings.resolution}
    if isinstance(settings.arm, WithoutEncoder) and settings.arm.resolution == "encoder":
        del flat["resolution"]  # the encoder's, but for rounding
    return {key: value for key, value in flat.items() if not key.startswith(unused)}


def _values(key: str, by_arm: Mapping[str, object]) -> str:
    """`train.epochs 3 for frozen and 4 for LoRA`."""
    arms: dict[str, list[str]] = {}
    for name, value in by_arm.items():
        arms.setdefault(str(value), []).append(inside(name))
    each = [f"{value} for {in_words(names)}" for value, names in arms.items()]
    return f"{key} {(' and ' if len(by_arm) == 2 else ', but ').join(each)}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """{"train": {"epochs": 24}} -> {"train.epochs": 24}."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def masks_apart(source: AnyData) -> list[str]:
    """A sentence on masks that come from different columns in the parts of the split; none where they do not."""
    columns = source.mask.model_dump() if isinstance(source, Manifest) and isinstance(source.mask, BySplit) else {}
    if len(set(columns.values())) < 2:
        return []
    each = in_words([f"{column} in {part}" for part, column in columns.items()])
    return [
        f"The masks are not of one column: {each}. Epoch and threshold were chosen by those in val, and Dice is "
        "measured against those in test."
    ]


def left_out(skipped: Skipped, *, named: bool = True) -> list[str]:
    """A sentence on the cases that prepare.on_problem: skip has left out; none where it left out none.

    `named`: with the first of them.
    """
    problems = skipped.skipped
    if not problems:
        return []
    if not named:
        return [f"Cases with problems were left out ({len(problems)} problems), which can bias a comparison."]
    shown = "; ".join(f"{one.where}: {one.what.split('; ')[0]}" for one in problems[:3])
    more = f"; {len(problems) - 3} more in reports/skipped.json" if len(problems) > 3 else ""
    return [
        f"Of {skipped.total} cases those with problems were left out (prepare.on_problem is skip), and a choice of "
        f"cases can bias a comparison: {shown}{more}."
    ]


def look_alike(similar: SimilarFrames, *, named: bool = True) -> list[str]:
    """A sentence on frames in different parts of the split that look alike; none where there are no such frames.

    `named`: with the most alike of them.
    """
    if not similar.pairs_across:
        return []
    one, n = similar.most_alike[0], similar.pairs_across
    pairs = f"{n} pair{'s' * (n != 1)} of frames without a patient id look{'s' * (n == 1)} alike"
    first, second = (f"{case.case_id} ({case.split})" for case in (one.first, one.second))
    example = f", {first} and {second} with a correlation of {one.correlation:.2f}" if named else ""
    return [
        f"{pairs} and {'is' if n == 1 else 'are'} in different parts of the split{example}: if they are of one cine or "
        "one patient, Dice may be too high, not only p too small. prepare.group_similar keeps such frames in one part."
    ]
