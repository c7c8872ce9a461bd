"""Reports of five arms of five kinds, whose truth is planted: the answer, what an arm lacks, the page and its plots."""

import html
import re

import numpy as np
import pytest
from helpers.report_inputs import Tags, make_inputs
from PIL import Image

from nightshift.config.sections import Compare
from nightshift.reporting.load import read_arms
from nightshift.reporting.records import Metrics
from nightshift.reporting.summary import summarise
from nightshift.reporting.text import answer
from nightshift.reporting.text_limits import not_alike
from stages import compare

PLANTED = {"frozen": 0.0, "lora": 0.1, "full": 0.102, "unet": 0.05, "vesselness": -0.1}
SECONDS = {"frozen": 20.0, "lora": 30.0, "full": 900.0, "unet": 60.0, "vesselness": 1.0}


def planted(gains, noise):
    """Gains of 12 cases by arm, in the mean as given, with some noise in each arm but the first."""
    random = np.random.default_rng(2)
    spread = {name: random.normal(0, noise, 12) * (i > 0) for i, name in enumerate(gains)}
    return {name: list(gain + spread[name] - spread[name].mean()) for name, gain in gains.items()}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The folder of a finished run of five arms of five kinds, of which the best and the second are nearly equal."""
    root = tmp_path_factory.mktemp("planted")
    make_inputs(root, planted(PLANTED, 0.004), SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        compare.main()
    return root


def markdown_of(root):
    return html.unescape((root / "reports/comparison/report.md").read_text(encoding="utf-8").replace("\\", ""))


def test_the_report_of_five_arms_finds_the_best_its_ties_and_what_is_recommended(truth):
    metrics = Metrics.read(truth / "reports/comparison/metrics.json")
    verdicts = {name: one.verdict for name, one in metrics.against.items()}
    assert verdicts == {"lora": "better", "full": "better", "unet": "better", "vesselness": "worse"}
    assert (metrics.verdict, metrics.recommended, metrics.patients) == ("undecided", "lora", 12)
    head, first = markdown_of(truth).splitlines()[:3:2]
    assert head == "# Undecided" and first.startswith(
        "**Undecided:** Full has the highest Dice of 5 arms, 0.657 [0.633, 0.681], not told from LoRA; 12 patients. "
        "Against frozen it is +0.102 Dice ["
    )
    assert "It takes 30 min 00 s to encode and train, 45.0x the time of frozen, with 0.15 M more parameters" in first
    assert "Recommended is LoRA, the cheapest arm that is sure to lose at most 0.01 Dice against it." in first
    rows = [line for line in markdown_of(truth).splitlines() if line.startswith(("| LoRA (", "| Full (", "| Frozen ("))]
    assert [row.split(" | ")[0] for row in rows] == ["| Frozen (reference)", "| LoRA (recommended)", "| Full (best)"]
    assert rows[1].endswith("| no | 1 min 00 s |") and rows[0].endswith("| yes | 40.0 s |")


def test_what_an_arm_lacks_is_said_in_every_section(truth):
    page, markdown = (truth / "reports/comparison/report.html").read_text(encoding="utf-8"), markdown_of(truth)
    for text in (page, markdown):
        assert "The encoder of frozen, LoRA and full has random weights." in text
        assert "U-Net and vesselness do not use the encoder." in text and "Vesselness does not use the view." in text
        assert "Wrong angles cost U-Net" in text and "angles cost Vesselness" not in text
        assert "Without the encoder Full keeps" in text and "Without the encoder U-Net" not in text
        assert not re.search(r"nan\b|None|not trained alike|was best in its last epoch", text)
    assert "<b>Frozen, LoRA and full:</b> yes, it runs as configured." in page
    assert "<b>U-Net and vesselness:</b> not asked, the encoder is not used." in page
    assert "Vesselness: nothing is trained, so there is no curve." in page
    assert "| Training, an epoch | 3.0 s | 3.0 s (1.0x) | 3.0 s (1.0x) | 3.0 s (1.0x) | - |" in markdown
    assert "| Parameters trained | 100,000 | 250,000 (2.5x) | 250,000 (2.5x) | 250,000 (2.5x) | 0 (<0.1x) |" in markdown
    assert re.search(r"\| Vesselness \| 0 \| 0 \| - \| - \| 0.5 \|", markdown)


def test_settings_are_compared_between_the_arms_that_have_them(truth, monkeypatch):
    monkeypatch.chdir(truth)
    arms = read_arms(PLANTED, "frozen")
    assert not_alike(arms) == []
    (card,) = arms["unet"].cards
    train = card.settings.train.model_copy(update={"epochs": 40})
    own = card.settings.arm.model_copy(update={"resolution": 512})
    settings = card.settings.model_copy(
        update={"arm": own, "resolution": 512, "train": train, "channels": "vesselness"}  # the filter sees grey frames
    )
    arms["unet"].cards[0] = card.model_copy(update={"settings": settings})
    side = arms["frozen"].cards[0].settings.resolution
    assert not_alike(arms) == [
        f"The arms were not trained alike: resolution {side} for frozen, LoRA and full, but 512 for U-Net, "
        "train.epochs 3 for frozen, LoRA and full, but 40 for U-Net."
    ]


@pytest.mark.parametrize(
    ("loss", "noise", "expected"),
    [(0.02, 0.001, "full"), (0.002, 0.001, "lora"), (0.002, 0.02, "full")],  # the last: it may lose more
)
def test_a_cheaper_arm_is_recommended_if_it_surely_loses_little(tmp_path, monkeypatch, loss, noise, expected):
    make_inputs(tmp_path, planted(PLANTED | {"lora": PLANTED["full"] - loss}, noise), SECONDS)
    monkeypatch.chdir(tmp_path)
    arms = read_arms(PLANTED, "frozen")
    found = summarise(arms, Compare(reference="frozen", level=0.05, margin=0.01))
    assert (found.best, found.metrics.recommended) == ("full", expected)
    said = answer(found, arms, 0.01)[1]
    assert ("Recommended is LoRA, the cheapest" in said) == (expected == "lora") == ("It is recommended" not in said)


def test_the_page_of_five_arms_is_whole_and_names_them_all(truth):
    page = (truth / "reports/comparison/report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert not tags.unclosed and not re.search(r"https?://|@import|url\(", page)
    assert "U-Net against frozen" in page and "From full, the best" in page
    for i in range(5):
        assert f'class="arm-{i}"' in page and f".arm-{i}::before" in page
    targets = {a["href"][1:] for a in tags.all("a")}
    assert targets <= {tag["id"] for tag in tags.all("section")} and {"all", "measures", "probe"} <= targets
    assert len([image for image in tags.all("img") if image["alt"].startswith("Case")]) == 2 * 5 + 3 * 4
    heads = ("| Arm | Dice", "| Measure", "| View")
    assert [line.count("|") for line in markdown_of(truth).splitlines() if line.startswith(heads)] == [11, 7, 8]


def test_a_run_of_five_arms_has_its_plots(truth):
    plots = {path.stem for path in (truth / "reports/comparison/plots").glob("*.png")}
    cases = {f"cases-{name}" for name in list(PLANTED)[1:]}
    of_all = {"arms", "arms-from-reference", "arms-from-best", "calibre", "curves", "overlays", "reliability"}
    assert plots == of_all | cases
    for name in plots:
        Image.open(truth / f"reports/comparison/plots/{name}.png").verify()


def test_odd_names_are_text(tmp_path, monkeypatch):
    make_inputs(tmp_path, {"frozen": 0.0, "_-_": 0.1, "__proto__": 0.05})
    monkeypatch.chdir(tmp_path)
    compare.main()
    metrics = Metrics.read(tmp_path / "reports/comparison/metrics.json")
    assert (metrics.reference, metrics.verdict, metrics.recommended) == ("frozen", "_-_", "_-_")
    page = (tmp_path / "reports/comparison/report.html").read_text(encoding="utf-8")
    assert "_-_ is best" in page and "__proto__ against frozen" in page and not Tags(page).unclosed
    markdown = (tmp_path / "reports/comparison/report.md").read_text(encoding="utf-8")
    assert r"| \_-\_ (best, recommended) |" in markdown and r"| \_\_proto\_\_ |" in markdown


def test_an_arm_from_another_place_can_be_compared(truth, tmp_path, monkeypatch):
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    here = read_arms(["lora", "frozen"], "frozen")
    there = read_arms(["frozen"], "frozen", root=truth)
    assert list(here) == ["frozen", "lora"] and there["frozen"].pictures.is_relative_to(truth)
    assert there["frozen"].cases[:8].equals(here["frozen"].cases)
