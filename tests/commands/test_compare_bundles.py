"""`nightshift compare --bundle`: models judged on cases that they have not seen, by the evaluation's own numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.bundles import write_bright_bundle
from helpers.data import source_case
from helpers.models import PLAIN, UNET, train_and_evaluate
from PIL import Image

from nightshift.commands.main import dispatch
from nightshift.config.sections import Predict
from nightshift.console.errors import UserError
from nightshift.core.io import write_text
from nightshift.data.dataset import data_hash
from nightshift.data.locations import PREPARED
from nightshift.ingest.prepared import write_folds
from nightshift.reporting import compare
from nightshift.reporting.records import Metrics

MODEL = "models/unet/fold-0/seed-0"
FOLDER = "kind: folder\nimages: images\nmasks: masks\nsplit: made\n"


def ask(*arguments: str) -> None:
    dispatch(["compare", *arguments, "-o", "out"])


def refused(*arguments: str) -> str:
    """The one line that such a command ends in; no report is written."""
    with pytest.raises(UserError) as caught:
        ask(*arguments)
    assert "\n" not in str(caught.value) and not Path("out/report.md").exists()
    return str(caught.value)


def measured(name: str, folder: str = "out/evaluation") -> pd.DataFrame:
    return pd.read_csv(f"{folder}/{name}/cases.csv")


@pytest.fixture
def about(monkeypatch):
    """What the reports are about, instead of reports, which take seconds."""
    found = []
    monkeypatch.setattr(compare, "write", lambda arms, chosen, about, folder: found.append((list(arms), chosen, about)))
    return found


@pytest.fixture
def unet(small, prepared):
    """small(): a U-Net in MODEL, evaluated, that uses no view."""

    def trained(masks=PLAIN):
        train_and_evaluate(small({"arms.unet": UNET, "view.mode": "none"}, "unet"), masks)

    return trained


@pytest.fixture
def bundle(checkout):
    """bundle(data_hash, fold): the folder of a bundle whose masks are every pixel above 99."""

    def made(trained_on: str, fold: int = 0, name: str = "bundle", takes_angles: bool = False) -> str:
        write_bright_bundle(Path(name), data_hash=trained_on, fold=fold, takes_angles=takes_angles)
        return name

    return made


@pytest.fixture
def mine(pictures):
    """The data set `mine` of two pictures and their masks."""
    write_text("conf/data/mine.yaml", FOLDER)
    for name in ("a", "b"):
        frame = np.asarray(Image.open(f"images/{name}.png").resize((40, 50)))
        Image.fromarray(frame).save(f"images/{name}.png")
        Image.fromarray(np.uint8(255 * (frame < 60))).save(f"masks/{name}.png")


def test_one_model_has_a_report_of_its_own(unet, capsys):
    unet()
    ask("--bundle", f"unet={MODEL}")
    page = Path("out/report.md").read_text(encoding="utf-8")
    assert page.startswith("# Nothing to compare\n\n**Nothing to compare:** U-Net 0.") and "ndecided" not in page
    assert "Test cases of fold 0 of data/prepared. Models of models/unet/fold-0/seed-0." in page
    assert "In brackets" not in page and "nothing tells" not in page and "cannot be decided" not in page
    metrics = Metrics.read(Path("out/metrics.json"))
    assert (metrics.verdict, metrics.cases, metrics.against) == (None, 2, {})
    assert capsys.readouterr().out.endswith("report: out/report.html\n")


@pytest.mark.parametrize("extra", [False, True])
def test_a_model_is_judged_exactly_as_it_was_evaluated(unet, extra, about, bundle):
    unet(Predict(mirror=extra, hysteresis=extra))
    sent = bundle(data_hash())
    ask("--bundle", f"unet={MODEL}", "--bundle", f"sent={sent}", "--reference", "sent")
    pd.testing.assert_frame_equal(measured("unet"), measured("unet", "reports/evaluation"))
    for picture in Path("reports/evaluation/unet/pictures").iterdir():
        assert (Path("out/evaluation/unet/pictures") / picture.name).read_bytes() == picture.read_bytes()
    assert list(measured("sent")["case_id"]) == ["case-7", "case-8"] and set(measured("sent")["dice"]) == {1}
    ((arms, chosen, of),) = about
    assert (arms, chosen.reference, of.notes) == (["unet", "sent"], "sent", [])
    command = f"nightshift compare --bundle unet={MODEL} --bundle sent=bundle --reference sent -o out"
    assert of.commands == [command]


def test_all_cases_of_another_data_set_with_a_warning_where_the_training_is_not_known(mine, bundle, about, capsys):
    ask("--bundle", f"sent={bundle('elsewhere')}", "--data", "mine")
    assert list(measured("sent")["case_id"]) == ["a", "b"] and about[0][2].what.startswith("All cases of mine.")
    warning = "sent was not trained on data/prepared as it is here: nothing tells whether it knows some of these cases."
    assert about[0][2].notes == [warning] and f"warning: {warning}\n" in capsys.readouterr().out


def test_frames_that_a_model_was_trained_on_are_no_test(mine, prepared, bundle, about):
    for number, name in ((0, "a"), (7, "b")):  # of training, and of test
        for folder, array in zip(("images", "masks"), source_case(number).read(), strict=True):
            Image.fromarray(array * (255 if folder == "masks" else 1)).save(f"{folder}/{name}.png")
    command = ("--bundle", f"sent={bundle(data_hash())}", "--data", "mine")
    assert "the very frame of case 'case-0' that sent was trained or chosen on, a leak" in refused(*command)
    write_text("params.yaml", Path("params.yaml").read_text().replace("on_problem: stop", "on_problem: skip"))
    ask(*command)
    assert list(measured("sent")["case_id"]) == ["b"]
    for folder in ("images", "masks"):
        Path(folder, "b.png").unlink()
    assert "conf/data/mine.yaml: no case is left" in refused(*command)


def test_models_of_two_folds_have_no_test_cases_in_common(prepared, bundle):
    cases = [source_case(i, f"p{i}") for i in range(9)]
    folds = [{"train": cases[:5], "val": cases[5:7], "test": cases[7:]}]
    write_folds(PREPARED, [*folds, {"train": cases[4:], "val": cases[2:4], "test": cases[:2]}])
    one, two = (bundle(data_hash(), fold, f"bundle-{fold}") for fold in (0, 1))
    assert "--bundle two: of fold 1, but one of fold 0" in refused("--bundle", f"one={one}", "--bundle", f"two={two}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "a=b", "--truth", "t"], "--truth goes with --masks, not with --bundle"),
        (["--masks", "a=b", "--data", "mine"], "--data goes with --bundle, not with --masks"),
        (["--masks", "a=b"], "--masks: nothing to measure them against; give the folder of true masks with --truth"),
        (["--bundle", "a=conf"], "conf: no card.json in it; expected a trained model"),
        (["--bundle", "a"], "--bundle a: expected NAME=DIR"),
        (["--bundle", "a=b", "--reference", "c"], "--reference c: no --bundle of that name"),
    ],
)
def test_wrong_arguments_are_one_line(checkout, arguments, message):
    assert message in refused(*arguments)


def test_a_model_that_needs_angles_is_not_judged_without_them(mine, bundle):
    arguments = ("--bundle", f"sent={bundle('elsewhere', takes_angles=True)}", "--data", "mine")
    assert "conf/data/mine.yaml: no case has view angles, which sent needs; name data" in refused(*arguments)


def test_an_unknown_data_set_is_named(bundle):
    assert "--data min: no such preset in conf/data; " in refused("--bundle", f"a={bundle('x')}", "--data", "min")
