"""stages.compare on a made-up run of two arms: what the report says, that it is safe and whole, what it refuses."""

import base64
import json
import re
from itertools import pairwise

import pandas as pd
import pytest
from helpers.report_inputs import EVIL, Tags, make_inputs

from nightshift.config import params
from nightshift.config.presets import BySplit, Manifest
from nightshift.config.sections import Compare
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.core.records import ModelResults
from nightshift.evaluation.measures import CALIBRATION, MEASURES
from nightshift.model.card import Card
from nightshift.reporting import render, styles
from nightshift.reporting.about import about_run, commands
from nightshift.reporting.load import read_arms
from nightshift.reporting.records import Metrics
from nightshift.reporting.summary import summarise
from nightshift.reporting.text_limits import limits, not_alike
from stages import compare

NAMES = ("frozen", "lora")
CHOSEN = Compare(reference="frozen", level=0.05, margin=0.01)
SENTENCE = (
    "LoRA +0.101 Dice [0.100, 0.101], p = 0.0078, 3.1x the time to encode and train, 0.15 M more parameters trained; "
    "0.636 against 0.535, 8 patients."
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished run; not to be written to."""
    root = tmp_path_factory.mktemp("run")
    make_inputs(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        compare.main()
    return root


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with inputs of one's own, as the current one."""
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arms_of(root, monkeypatch):
    monkeypatch.chdir(root)
    return read_arms(NAMES, "frozen")


def metrics_of(root) -> Metrics:
    return Metrics.read(root / "reports/comparison/metrics.json")


def markdown_of(root):
    return (root / "reports/comparison/report.md").read_text(encoding="utf-8")


def edit(path, **values):
    """Set keys of a JSON file; `a__b` is b within a."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        *sections, last = key.split("__")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
    write_json(path, content)


def html_of(root):
    return (root / "reports/comparison/report.html").read_text(encoding="utf-8")


def test_metrics_hold_the_contract(made):
    content = json.loads((made / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert list(content) == list(Metrics.model_fields)
    assert content["arms"]["frozen"]["dice"] == 0.535 and content["arms"]["lora"]["dice"] == 0.6357
    against = content["against"]["lora"]
    assert list(content["against"]) == ["lora"]
    assert (against["delta"], against["verdict"]) == (0.1007, "better")
    assert against["p"] == against["p_holm"] == round(2 / 2**8, 6)
    assert against["ci95"][0] < 0.1007 < against["ci95"][1]
    assert (content["reference"], content["verdict"], content["recommended"]) == ("frozen", "lora", "lora")
    assert [content[name] for name in ("cases", "patients", "folds", "seeds", "patients_needed")] == [8, 8, 1, 1, None]
    assert metrics_of(made).model_dump() == content


def test_models_have_their_own_dice_and_no_case_is_named(made):
    results = ModelResults.read(made / "reports/comparison/models.json")
    assert results.answer == f"LoRA is better: {SENTENCE}" and results.recommended == "lora"
    card = Card.read(made / "models/lora/fold-0/seed-0/card.json")
    one = results.models["lora"]["fold-0/seed-0"]
    assert (one.card, one.dice, one.cases, one.patients) == (card.digest, 0.6357, 8, 8)
    assert one.ci95 == metrics_of(made).arms["lora"].ci95
    assert "The test set has only 8 patients: single ones weigh heavily in every mean." in results.limits
    assert EVIL not in results.model_dump_json()


def test_metrics_do_not_depend_on_seconds_and_the_report_is_reproducible(made, inputs):
    compare.main()
    assert html_of(inputs) == html_of(made)
    for path in inputs.glob("reports/cost/lora/*.json"):
        edit(path, seconds=99.0)
    compare.main()
    name = "reports/comparison/metrics.json"
    assert (inputs / name).read_bytes() == (made / name).read_bytes()
    assert html_of(inputs) != html_of(made)


def test_html_and_markdown_give_the_answer_first(made):
    html = html_of(made).replace("\u00a0", " ")
    markdown = markdown_of(made).replace("\\", "")
    for text in (html, markdown):
        assert SENTENCE in text
        assert text.index("LoRA is better") < text.index(SENTENCE) < text.index("random weights") < text.index("only 8")


def test_arms_that_were_not_trained_alike_are_named_on_top(inputs, monkeypatch):
    assert not_alike(arms_of(inputs, monkeypatch)) == []  # what an arm is, as its rank, may differ
    for key, value in (("epochs", 9), ("micro_batch", 1), ("seeds", [0, 1])):  # the last two change no training
        edit(inputs / "models/lora/fold-0/seed-0/card.json", **{f"settings__train__{key}": value})
    said = "The arms were not trained alike: train.epochs 3 for frozen and 9 for LoRA."
    assert not_alike(arms_of(inputs, monkeypatch)) == [said]
    compare.main()
    html = html_of(inputs)
    assert html.index(said) < html.index("<nav") and html.count(said) == 1
    assert markdown_of(inputs).index(said) < markdown_of(inputs).index("## What could be wrong")


def test_frames_that_look_alike_are_named_on_top(inputs):
    pair = {
        "correlation": 0.85,
        "first": {"case_id": EVIL, "split": "train", "file": ""},
        "second": {"case_id": "b", "split": "test", "file": ""},
    }
    edit(inputs / "reports/similar.json", pairs_across=1, most_alike=[pair])
    compare.main()
    html = html_of(inputs)
    assert html.index("Dice may be too high") < html.index("<nav") and EVIL not in html
    assert "Dice may be too high" in markdown_of(inputs)


def test_random_weights_are_only_claimed_of_random_weights(inputs, monkeypatch):
    for path in inputs.glob("models/*/fold-0/seed-0/card.json"):
        edit(path, weights={"path": "hub", "size": 1, "sha256": "0"})
    arms = arms_of(inputs, monkeypatch)
    same = {"frozen": arms["frozen"], "lora": arms["frozen"]}
    contents = render.contents(arms, summarise(same, CHOSEN), [], about_run(params.read(), arms), 0.01)
    for name in ("report.html.j2", "report.md.j2"):
        text = render.render(name, contents)
        assert "random weights" not in text and "Undecided" in text


def test_columns_that_the_masks_of_each_part_are_from_are_named(inputs, monkeypatch):
    arms = arms_of(inputs, monkeypatch)
    mask = BySplit(train="pseudo", val="actual", test="actual")
    source = Manifest(kind="manifest", path="m.csv", split="made", mask=mask)
    about = about_run(params.read().model_copy(update={"source": source}), arms)
    contents = render.contents(arms, summarise(arms, CHOSEN), [], about, 0.01)
    for name in ("report.html.j2", "report.md.j2"):
        assert "pseudo in train, actual in val and actual in test" in render.render(name, contents)


def test_the_heatmap_comes_after_the_pictures_with_a_table_of_the_causes_it_met(made):
    html = html_of(made)
    assert html.index('id="pictures"') < html.index('id="probe"') < html.index("What the causes mean")
    assert '<th scope="row">grid</th><td>a table of &lt;another&gt; grid</td><td>make_real</td>' in html
    assert "unmet" not in html and "What the probe tried: 2 cases" in html


def test_a_case_name_is_text_and_nothing_else(made):
    html, markdown = html_of(made), markdown_of(made)
    page = Tags(html)
    assert not page.all("script") and "<script" not in markdown
    assert any(EVIL in image["alt"] for image in page.all("img"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in markdown


def test_every_ablation_is_put_in_words(made):
    for text in (html_of(made), markdown_of(made).replace("\\", "")):
        assert "Wrong angles cost Frozen 0.100 Dice" in text and "it uses the view" in text
        assert "Angles of zero change nothing for LoRA." in text
        assert "Without the encoder Frozen keeps 25% of its Dice" in text


def test_calibration_is_in_words_and_pictures(made):
    said = "pixels of 0.5 or more have a mean probability of 0.81, and 64% of them are vessel"
    for text in (html_of(made), markdown_of(made).replace("\\", "")):
        assert f"Frozen: {said}; ECE 0.535, Brier score 0.535." in text and f"LoRA: {said}" in text
    for name in ("reliability", "calibre"):
        assert (made / f"reports/comparison/plots/{name}.png").is_file()
    assert {"#calibration", "#calibre"} <= {link["href"] for link in Tags(html_of(made)).all("a")}


def test_the_measures_are_a_table_of_their_own(made):
    table = pd.read_csv(made / "reports/comparison/measures.csv", dtype=str).set_index("measure")
    assert list(table.index) == [*MEASURES, *CALIBRATION]
    dice = table.loc["dice"]
    assert (dice["reference"], dice["arm"], dice["delta"]) == ("frozen", "lora", "0.100700")
    assert (dice["reference_mean"], dice["arm_mean"]) == ("0.535000", "0.635700")
    assert float(dice["p_holm"]) == pytest.approx(len(table) * 2 / 2**8, abs=1e-5)


def test_groups_of_the_source_and_millimetres_have_their_tables(inputs):
    for i, arm in enumerate(NAMES):
        path = inputs / f"reports/evaluation/{arm}/cases.csv"
        segments = [f"6{EVIL}"] * 3 + [""] * 5
        table = pd.read_csv(path).assign(hd95_mm=1.5 + i, asd_mm=0.5, cass_segment=segments)
        table.to_csv(path, index=False)
    compare.main()
    html, markdown = html_of(inputs), markdown_of(inputs)
    page = Tags(html)
    assert not page.unclosed and 'href="#groups"' in html and EVIL not in html
    assert '<tr><th scope="row">not given</th><td class="number">5</td>' in html and "By cass_segment" in html
    assert "HD95, mm (lower is better)" in html and "there being 13 measures" in html
    assert "## By cass\\_segment" in markdown and "HD95, mm" in markdown
    measures = pd.read_csv(inputs / "reports/comparison/measures.csv", dtype=str).set_index("measure")
    assert measures.loc["hd95_mm", "delta"] == "1.000000" and pd.isna(measures.loc["hd95_mm", "p_holm"])
    path = inputs / "reports/evaluation/lora/cases.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",2.5,", ",,"), encoding="utf-8")
    with pytest.raises(UserError, match="line 2: hd95_mm is not a finite number"):
        compare.main()


def test_a_pipe_in_a_name_does_not_break_a_markdown_table():
    cell = render._markdown("a|b_c\nd")
    assert cell == r"a\|b\_c d"


def test_the_page_is_whole_and_needs_no_network(made):
    html = html_of(made)
    page = Tags(html)
    assert not page.unclosed and not page.all("link")
    assert len(page.all("img")) == 9 + 6 * 2 + 2 * 3  # figures, extremes, and where the arms differ most
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))
    assert not re.search(r"https?://|@import|url\(", html)
    targets = {a["href"][1:] for a in page.all("a")}
    assert targets <= {tag["id"] for tag in page.all("section")} and targets
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_charts_follow_light_and_dark(made):
    first = next(i["src"] for i in Tags(html_of(made)).all("img") if "epoch" in i["alt"])
    svg = base64.b64decode(first.split(",")[1]).decode()
    drawn = svg.replace(re.search("<style>.*?</style>", svg).group(), "", 1)
    assert "prefers-color-scheme:dark" in svg and "var(--ink)" in drawn and "var(--arm-1)" in drawn
    assert not any(light in drawn for light, _ in (styles.INK, *styles.COLOURS))


def test_warnings_are_written_from_the_data(inputs, monkeypatch):
    def found():
        return " ".join(limits(arms_of(inputs, monkeypatch), 0.05))

    assert "only 8 patients" in found() and "one seed" in found()
    assert not re.search("patient id|angles|alike|last epoch|different data", found())
    for arm in NAMES:
        path = inputs / f"reports/evaluation/{arm}/cases.csv"
        unknown = re.sub(r",P[34],-30.0+,25.0+", ",,,", path.read_text(encoding="utf-8"))
        path.write_text(unknown, encoding="utf-8")
    edit(inputs / "models/lora/fold-0/seed-0/card.json", epoch=3, data_hash="other")
    edit(inputs / "reports/cost/lora/train.json", revision="def456+", machine={"cores": "9"})
    edit(inputs / "reports/cost/lora/encode.json", cases_before=4)
    assert "2 of 8 test cases have no patient id" in found() and "2 of 8 test cases have no C-arm angles" in found()
    assert "LoRA was best in its last epoch (seed 0)" in found() and "different data" in found()
    assert "LoRA: 4 cases were encoded before a kill" in found() and "on different machines" in found()
    assert "uncommitted changes" in found()


@pytest.mark.parametrize(("variants", "frozen"), [(2, "the same few"), (0, "none")])
def test_new_variants_in_every_epoch_for_some_arms_alone_is_said(inputs, monkeypatch, variants, frozen):
    for arm in NAMES:
        card = inputs / f"models/{arm}/fold-0/seed-0/card.json"
        settings = json.loads(card.read_text(encoding="utf-8"))["settings"]
        edit(card, settings=settings | {"augment": settings["augment"] | {"online": True, "variants": variants}})
    said = f"LoRA saw new variants of the training cases in every epoch, frozen {frozen}."
    assert said not in " ".join(limits(arms_of(inputs, monkeypatch), 0.05))
    edit(inputs / "reports/probe/arms/lora.json", prefix__blocks=0)
    assert said in " ".join(limits(arms_of(inputs, monkeypatch), 0.05))


def test_one_seed_in_each_of_several_folds_is_one_seed(inputs, monkeypatch):
    arms = arms_of(inputs, monkeypatch)
    for one in arms.values():
        one.cards.extend(one.cards)  # of another fold
    assert any("trained with one seed" in said for said in limits(arms, 0.05))


def test_three_patients_cannot_decide(inputs):
    for path in (*inputs.glob("reports/evaluation/*/cases.csv"), *inputs.glob("reports/evaluation/*/ablations.csv")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = lines[:1] + [line for line in lines if re.search(",P[012],", line)]
        path.write_text("".join(kept), encoding="utf-8")
    compare.main()
    metrics = metrics_of(inputs)
    assert metrics.against["lora"].ci95 is None and metrics.verdict == "undecided"
    assert "cannot be decided with 3 patients" in html_of(inputs) and "unbounded" in html_of(inputs)


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("reports/evaluation/lora/cases.csv", "P3", "P9", "evaluation/lora: .* other test cases .* see case 'd'"),
        ("reports/evaluation/lora/cases.csv", ",dice,", ",rice,", "no column 'dice'"),
        ("reports/evaluation/frozen/cases.csv", "0.510000", "nan", "line 3: dice is not a finite number"),
        ("reports/curves/lora.csv", "\n0,", "\n1,", "curves/lora.csv: not the folds and seeds that models/lora has"),
        ("reports/curves/lora.csv", "\n0,0,3", "\n0,0,2.5", "line 4: epoch is not a whole number"),
        ("reports/evaluation/lora/cases.csv", "-30.000000", "left", "line 2: primary_angle is not a finite number"),
        ("reports/evaluation/lora/ablations.csv", ",c,", ",x,", "ablations.csv: not the cases of cases.csv"),
        ("reports/evaluation/lora/cases.csv", ",ece,", ",ace,", "no column 'ece'"),
        ("reports/evaluation/lora/reliability.csv", None, None, "reliability.csv: no such file yet"),
        ("reports/probe/heatmap.svg", None, None, "heatmap.svg: no such file yet"),
        (
            "reports/cost/lora/train.json",
            '"parameters_trained": 250000,',
            "",
            "train.json: no key 'parameters_trained'",
        ),
        ("reports/cost/lora/train.json", "seconds_per_epoch", "x", "train.json: x: Extra inputs"),
        ("models/lora/fold-0/seed-0/card.json", '"epoch": 2', '"epoch": "two"', "card.json: epoch: Input should be"),
        ("reports/probe/arms/lora.json", None, None, "lora.json: no such file yet"),
        ("reports/probe/verdict.json", "{", "", "verdict.json: not JSON"),
        ("reports/probe/cases.csv", None, None, "no such file yet"),
        ("models/lora/fold-0/seed-0/card.json", None, None, "no fold-F/seed-S/card.json"),
        ("reports/evaluation/frozen/pictures/truth-00000.png", None, None, "truth-00000.png: missing"),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(inputs, path, old, new, message):
    file = inputs / path
    if old is None:
        file.unlink()
    else:
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compare.main()
    assert not (inputs / "reports/comparison").exists()


def test_commands_check_out_each_revision(inputs, monkeypatch):
    assert commands(arms_of(inputs, monkeypatch)) == ["git checkout abc123", "dvc repro"]
    for path in inputs.glob("reports/cost/lora/*.json"):
        edit(path, revision="def456+")
    assert commands(arms_of(inputs, monkeypatch)) == [
        "# there were uncommitted changes: set params.yaml and conf/ as below, too",
        "git checkout abc123",
        "dvc repro encode@frozen train@frozen evaluate@frozen",
        "git checkout def456",
        "dvc repro encode@lora train@lora evaluate@lora",
    ]


def test_a_folder_of_an_arm_that_was_taken_out_is_ignored(inputs, made):
    (inputs / "reports/evaluation/wide").mkdir()
    (inputs / "reports/evaluation/wide/cases.csv").write_text("not a table", encoding="utf-8")
    (inputs / "models/wide/fold-0/seed-0").mkdir(parents=True)
    compare.main()
    assert html_of(inputs) == html_of(made)
