"""stages.compare on a small made-up run: what the report says, that it is safe and whole, and what it refuses."""

import base64
import csv
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nightshift.reporting import compare as comparison
from nightshift.reporting import figures
from nightshift.reporting import render as report
from nightshift.reporting import text as wording
from nightshift.console.errors import UserError
from nightshift.evaluation.measures import MEASURES
from nightshift.reporting.load import ARMS, read_arm
from stages import compare

ROOT = Path(__file__).parents[2]
PROBED = (
    "case", "encoder", "height", "width", "grid_h", "grid_w", "adapter", "wrapper", "dtype", "table", "outcome",
    "cause", "block", "table_shape", "expected_shape",
)  # fmt: skip
EVIL = "<script>alert(1)</script>"
SENTENCE = (
    "LoRA +0.101 Dice [0.100, 0.101], p = 0.0078, 3.1x the time to encode and train, 0.15 M more parameters trained; "
    "0.636 against 0.535, 8 patients."
)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_inputs(root):
    """Eight cases, one patient each, one named as an attack; LoRA is better by about 0.1 in each."""
    for name in ("params.yaml", "conf"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    ids = [EVIL, "a|b_c", "c", "d", "e", "f", "g", "$x^{$"]
    random = np.random.default_rng(0)
    for arm, gain in (("frozen", 0.0), ("lora", 0.1)):
        folder = root / "reports/evaluation" / arm
        (folder / "pictures").mkdir(parents=True)
        rows = []
        for i, case in enumerate(ids):
            who = {"seed": 0, "case_id": case, "patient_id": f"P{i}", "primary_angle": -30.0, "secondary_angle": 25.0}
            rows.append(who | dict.fromkeys(MEASURES, 0.5 + gain + 0.01 * i + 0.002 * i * gain))
            frame = random.integers(60, 200, (24, 32), dtype=np.uint8)
            Image.fromarray(frame).save(folder / f"pictures/frame-{i:05d}.png")
            for kind, column in (("truth", 10), ("prediction-0", 12)):
                mask = np.zeros((24, 32), np.uint8)
                mask[:, column : column + 5] = 255
                Image.fromarray(mask).save(folder / f"pictures/{kind}-{i:05d}.png")
        put_csv(folder / "cases.csv", rows)
        lost = [("wrong_angles", 0.1), ("zero_angles", 0.0), ("no_tokens", 0.4)]
        who = [{key: row[key] for key in ("seed", "case_id", "patient_id")} | {"dice": row["dice"]} for row in rows]
        put_csv(
            folder / "ablations.csv",
            [row | {"ablation": name, "dice": row["dice"] - less} for row in who for name, less in lost],
        )
        curve = {"seed": 0, "train_loss": 0.5, "val_loss": 0.6}
        put_csv(root / f"reports/curves/{arm}.csv", [curve | {"epoch": e, "val_dice": 0.1 * e} for e in (1, 2, 3)])
        trained = {
            "settings": {"train": {"epochs": 3}, "view": {"mode": "film"}},
            "cases": {"train": 9, "val": 8},
            "data_hash": "d4",
            "weights": {"path": "random"},
            "epoch": 2,
            "threshold": 0.5,
            "val_dice": 0.2,
        }
        put(root / f"models/{arm}/seed-0/card.json", json.dumps({"arm": arm, "seed": 0} | trained))
        put(root / f"reports/probe/{arm}.json", json.dumps({"ok": True, "cause": "", "cure": ""}))
        for step in ("encode", "train", "evaluate"):
            cost = {"seconds": 10.0 if arm == "frozen" else 31.0, "peak_memory_bytes": 2**30, "revision": "abc123"}
            cost |= {"machine": {"cores": "2"}, "parameters_trained": 100_000 if arm == "frozen" else 250_000}
            cost |= {"seconds_per_epoch": 3.0, "cases_per_second": 7.0}
            put(root / f"reports/cost/{step}_{arm}.json", json.dumps(cost))
    because = {"verdict": "refuted", "because": "nothing changed", "cases": ["sam3-1008-peft"]}
    verdict = {"torch": "2.15.0", "sam3": "0.1.4", "hypotheses": {"lora_wrapper": because}}
    put(root / "reports/probe/verdict.json", json.dumps(verdict))
    put(
        root / "reports/probe/matrix.svg",
        '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="9"><rect width="9" height="9"/></svg>',
    )
    put_csv(root / "reports/probe/cases.csv", [dict.fromkeys(PROBED, "") | {"case": "sam3-1008-peft", "outcome": "ok"}])
    put(root / "reports/env.json", json.dumps({"torch": "2.15.0"}))
    put(root / "reports/skipped.json", json.dumps({"total": 9, "skipped": []}))


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
    return {name: read_arm(name) for name in ARMS}


class Tags(HTMLParser):
    """Start tags with their attributes; `unclosed` is empty for a page whose tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.unclosed = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.unclosed.append(tag)

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def html_of(root):
    return (root / "reports/comparison/report.html").read_text(encoding="utf-8")


def test_metrics_hold_the_contract(made):
    metrics = json.loads((made / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert metrics["dice"]["frozen"] == 0.535 and metrics["dice"]["lora"] == 0.6357
    assert metrics["dice"]["delta"] == 0.1007 and metrics["dice"]["p"] == round(2 / 2**8, 6)
    assert metrics["dice"]["ci95"][0] < 0.1007 < metrics["dice"]["ci95"][1]
    assert (metrics["verdict"], metrics["cases"], metrics["patients"]) == ("lora", 8, 8)


def test_metrics_do_not_depend_on_costs_and_the_report_is_reproducible(made, inputs):
    compare.main()
    assert html_of(inputs) == html_of(made)
    for path in inputs.glob("reports/cost/*.json"):
        put(path, path.read_text(encoding="utf-8").replace("31.0", "99.0"))
    compare.main()
    name = "reports/comparison/metrics.json"
    assert (inputs / name).read_bytes() == (made / name).read_bytes()
    assert html_of(inputs) != html_of(made)


def test_html_and_markdown_give_the_answer_first(made):
    html = html_of(made).replace("\u00a0", " ")
    markdown = (made / "reports/comparison/report.md").read_text(encoding="utf-8").replace("\\", "")
    for text in (html, markdown):
        assert SENTENCE in text
        assert text.index("LoRA is better") < text.index(SENTENCE) < text.index("random weights") < text.index("only 8")


def test_only_what_both_arms_have_can_be_unequal(made, monkeypatch):
    arms = arms_of(made, monkeypatch)
    arms["frozen"].cards[0]["settings"]["encode"] = {"level": "trunk"}
    assert not any("trained alike" in warning for warning in wording.limits(arms, 0.05))
    arms["lora"].cards[0]["settings"]["train"] = {"epochs": 4}
    assert "The arms were not trained alike: train.epochs 3 for frozen and 4 for LoRA." in wording.limits(arms, 0.05)


def test_random_weights_are_only_claimed_of_random_weights(made, monkeypatch):
    arms = arms_of(made, monkeypatch)
    for arm in arms.values():
        arm.cards[0]["weights"] = {"path": "hub", "size": 1, "sha256": "0"}
    found = comparison.summary(arms["frozen"].cases, arms["frozen"].cases, 0.05)
    contents = report.contents(arms, found, [], report.about_run(compare.settings.read(), arms))
    for name in ("report.html.j2", "report.md.j2"):
        text = report.render(name, contents)
        assert "random weights" not in text and "Undecided" in text


def test_a_case_name_is_text_and_nothing_else(made):
    html, markdown = html_of(made), (made / "reports/comparison/report.md").read_text(encoding="utf-8")
    page = Tags(html)
    assert not page.all("script") and "<script" not in markdown
    assert any(EVIL in image["alt"] for image in page.all("img"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in markdown


def test_every_ablation_is_put_in_words(made):
    for text in (html_of(made), (made / "reports/comparison/report.md").read_text(encoding="utf-8").replace("\\", "")):
        assert "Wrong angles cost Frozen 0.100 Dice" in text and "it uses the view" in text
        assert "Angles of zero change nothing for LoRA." in text
        assert "Without the encoder Frozen keeps 25% of its Dice" in text


def test_the_measures_are_a_table_of_their_own(made):
    with (made / "reports/comparison/measures.csv").open(encoding="utf-8", newline="") as handle:
        rows = {row["measure"]: row for row in csv.DictReader(handle)}
    assert list(rows) == list(MEASURES)
    assert rows["dice"]["delta"] == "0.100700"
    assert float(rows["dice"]["p_holm"]) == pytest.approx(7 * 2 / 2**8, abs=1e-5)


def test_groups_of_the_source_and_millimetres_have_their_tables(inputs):
    for i, arm in enumerate(ARMS):
        path = inputs / f"reports/evaluation/{arm}/cases.csv"
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        more = [{"hd95_mm": 1.5 + i, "asd_mm": 0.5, "cass_segment": f"6{EVIL}" if n < 3 else ""} for n in range(8)]
        put_csv(path, [row | one for row, one in zip(rows, more, strict=True)])
    compare.main()
    html, markdown = html_of(inputs), (inputs / "reports/comparison/report.md").read_text(encoding="utf-8")
    page = Tags(html)
    assert not page.unclosed and 'href="#groups"' in html and EVIL not in html
    assert '<tr><th scope="row">not given</th><td class="number">5</td>' in html and "By cass_segment" in html
    assert "HD95, mm (lower is better)" in html and "there being 7 measures" in html
    assert "## By cass\\_segment" in markdown and "HD95, mm" in markdown
    with (inputs / "reports/comparison/measures.csv").open(encoding="utf-8", newline="") as handle:
        measures = {row["measure"]: row for row in csv.DictReader(handle)}
    assert (measures["hd95_mm"]["delta"], measures["hd95_mm"]["p_holm"]) == ("1.000000", "")
    path = inputs / "reports/evaluation/lora/cases.csv"
    put(path, path.read_text(encoding="utf-8").replace(",2.5,", ",,"))
    with pytest.raises(UserError, match="line 2: hd95_mm is not a finite number"):
        compare.main()


def test_a_pipe_in_a_name_does_not_break_a_markdown_table():
    cell = report._markdown("a|b_c\nd")
    assert cell == r"a\|b\_c d"


def test_the_page_is_whole_and_needs_no_network(made):
    html = html_of(made)
    page = Tags(html)
    assert not page.unclosed and not page.all("link")
    assert len(page.all("img")) == 7 + 6 * 2 + 2 * 3  # figures, extremes, and where the arms differ most
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
    assert "prefers-color-scheme:dark" in svg and "var(--ink)" in drawn and "var(--lora)" in drawn
    assert not any(light in drawn for light, _ in figures.COLOURS.values())


def test_warnings_are_written_from_the_data(inputs, monkeypatch):
    def found():
        return " ".join(wording.limits(arms_of(inputs, monkeypatch), 0.05))

    assert "only 8 patients" in found() and "one seed" in found()
    assert not re.search("patient id|angles|alike|last epoch|different data", found())
    for arm in ARMS:
        path = inputs / f"reports/evaluation/{arm}/cases.csv"
        put(path, re.sub(r",P[34],-30.0,25.0", ",,,", path.read_text(encoding="utf-8")))
    path = inputs / "models/lora/seed-0/card.json"
    card = json.loads(path.read_text(encoding="utf-8")) | {"epoch": 3, "data_hash": "other"}
    put(path, json.dumps(card | {"settings": {"train": {"epochs": 9}, "lora": {"rank": 8}}}))
    assert "2 of 8 test cases have no patient id" in found() and "2 of 8 test cases have no C-arm angles" in found()
    assert "train.epochs 3 for frozen and 9 for LoRA" in found() and "rank" not in found()
    assert "LoRA was best in its last epoch (seed 0)" in found() and "different data" in found()


def test_three_patients_cannot_decide(inputs):
    for path in inputs.glob("reports/evaluation/*/*.csv"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        put(path, "".join(lines[:1] + [line for line in lines if re.search(",P[012],", line)]))
    compare.main()
    metrics = json.loads((inputs / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert metrics["dice"]["ci95"] is None and metrics["verdict"] == "undecided"
    assert "cannot be decided with 3 patients" in html_of(inputs) and "unbounded" in html_of(inputs)


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("reports/evaluation/lora/cases.csv", "P3", "P9", "other test cases .* see case 'd'"),
        ("reports/evaluation/lora/cases.csv", ",dice,", ",rice,", "no column 'dice'"),
        ("reports/evaluation/frozen/cases.csv", "0.510000", "nan", "line 3: dice is not a finite number"),
        ("reports/curves/lora.csv", "\r\n0,", "\r\n1,", "not the seeds that models/lora has"),
        ("reports/evaluation/lora/ablations.csv", ",c,", ",x,", "ablations.csv: not the cases of cases.csv"),
        ("reports/probe/matrix.svg", None, None, "matrix.svg: no such file yet"),
        ("reports/cost/train_lora.json", "parameters_trained", "x", "train_lora.json: no key 'parameters_trained'"),
        ("reports/probe/verdict.json", "{", "", "verdict.json: not JSON"),
        ("reports/probe/cases.csv", None, None, "no such file yet"),
        ("models/lora/seed-0/card.json", None, None, "no seed-N/card.json"),
        ("reports/evaluation/frozen/pictures/truth-00000.png", None, None, "truth-00000.png: missing"),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(inputs, path, old, new, message):
    text = None if old is None else (inputs / path).read_bytes().decode()
    if text is None:
        (inputs / path).unlink()
    else:
        assert old in text.replace("0.51,", "0.510000,")
        (inputs / path).write_bytes(text.replace("0.51,", "0.510000,").replace(old, new).encode())
    with pytest.raises(UserError, match=message):
        compare.main()
    assert not (inputs / "reports/comparison").exists()


def test_commands_check_out_each_revision(made, monkeypatch):
    arms = arms_of(made, monkeypatch)
    assert report.commands(arms) == ["git checkout abc123", "dvc repro"]
    for cost in arms["lora"].costs.values():
        cost["revision"] = "def456+"
    assert report.commands(arms) == [
        "# there were uncommitted changes: set params.yaml and conf/ as below, too",
        "git checkout abc123",
        "dvc repro encode_frozen train_frozen evaluate_frozen",
        "git checkout def456",
        "dvc repro encode_lora train_lora evaluate_lora",
    ]
