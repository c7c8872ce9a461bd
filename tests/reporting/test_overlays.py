"""Which test cases are shown as pictures, and what their colours mean, whatever the cases are called."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nightshift.console.errors import UserError
from nightshift.reporting import figures, overlays
from nightshift.reporting.load import ArmResults

EVIL = ("$x^{$", "<script>alert(1)</script>", "--><b>\x07\n", "#d55e00")


def make_arms(root, frozen, lora, frames=True):
    """Both arms' results of cases with these Dice, the pictures of both their own: the frame grey i, 24 x 32."""
    arms = {}
    for name, seed, values in (("frozen", 3, frozen), ("lora", 5, lora)):
        folder, rows = root / name, []
        folder.mkdir()
        for i, value in enumerate(values):
            if frames:
                Image.fromarray(np.full((24, 32), 100 + i, np.uint8)).save(folder / f"frame-{i:05d}.png")
            for kind, column in (("truth", 10), (f"prediction-{seed}", 12 if name == "frozen" else 20)):
                mask = np.zeros((24, 32), np.uint8)
                mask[:, column : column + 5] = 255
                Image.fromarray(mask).save(folder / f"{kind}-{i:05d}.png")
            case = EVIL[i] if i < len(EVIL) else f"case-{i}"
            who = {"case_id": case, "patient_id": f"P{i}", "primary_angle": -30.0, "secondary_angle": 25.0}
            rows += [who | {"fold": 0, "seed": seed, "dice": value}, who | {"fold": 0, "seed": 9, "dice": 1 - value}]
        arms[name] = ArmResults(cases=pd.DataFrame(rows), pictures=folder, seed=seed)
    return arms


FROZEN = (0.50, 0.60, 0.70, 0.80, 0.40, 0.30)
LORA = (0.55, 0.50, 0.90, 0.78, 0.40, 0.33)


def test_panels_are_extremes_of_each_arm_and_where_the_arms_differ_most(tmp_path):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA))
    assert [(panel.rank, panel.case) for panel in panels] == [
        ("Worst of Frozen", "case-5"),
        ("Worst of LoRA", "case-5"),
        ("Median of Frozen", EVIL[0]),
        ("Median of LoRA", EVIL[1]),
        ("Best of Frozen", EVIL[3]),
        ("Best of LoRA", EVIL[2]),
        ("LoRA gains most", EVIL[2]),
        ("LoRA gains most", EVIL[0]),
        ("LoRA loses most", EVIL[1]),
        ("LoRA loses most", EVIL[3]),
    ]
    assert panels[0].dice == "Dice: Frozen 0.300, LoRA 0.330" and panels[0].who == "patient P5, RAO 30 CRA 25"
    assert panels[8].dice == "Dice: Frozen 0.600, LoRA 0.500, difference -0.100"
    assert [[label for label, _ in panel.overlays] for panel in panels] == [["Frozen"], ["LoRA"]] * 3 + [
        ["Frozen", "LoRA"]
    ] * 4
    assert all(p.size == (600, 450) for panel in panels for p in (panel.frame, *(o for _, o in panel.overlays)))
    assert panels[0].frame.getpixel((0, 0)) == 105 and panels[6].frame.getpixel((0, 0)) == 102
    frozen, lora = (np.asarray(picture).astype(int) for _, picture in panels[6].overlays)
    mixed = {name: 0.45 * 102 + 0.55 * np.array(rgb) for name, rgb in overlays.FILLS.items()}
    column = round(22 * 600 / 32)  # LoRA's alone
    np.testing.assert_allclose(lora[200, column], mixed["false"], atol=1)
    assert (frozen[200, column] == 102).all()


@pytest.mark.parametrize(
    ("lora", "ranks"),
    [
        ((0.6, 0.7), ["LoRA gains most"] * 2),
        ((0.6, 0.6), ["LoRA gains most"]),
        ((0.4, 0.7), ["LoRA gains most", "LoRA loses most"]),
        ((0.4, 0.3), ["LoRA loses most"] * 2),
        ((0.5, 0.6), []),
    ],
)
def test_no_case_is_both_gain_and_loss_and_equal_ones_are_neither(tmp_path, lora, ranks):
    panels = overlays.panels(make_arms(tmp_path, (0.5, 0.6), lora))[6:]
    assert [panel.rank for panel in panels] == ranks
    assert len({panel.case for panel in panels}) == len(panels)


@pytest.mark.parametrize("name", ["frame-00005", "truth-00005", "prediction-3-00005"])
def test_a_missing_picture_is_named(tmp_path, name):
    arms = make_arms(tmp_path, FROZEN, LORA)
    (tmp_path / f"frozen/{name}.png").unlink()
    with pytest.raises(UserError, match=rf"{name}\.png: missing or not a picture"):
        overlays.panels(arms)


def test_masks_alone_are_shown_on_grey(tmp_path):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA, frames=False))
    assert all((np.asarray(panel.frame) == overlays.GREY).all() for panel in panels)


def test_overlay_colours_found_missed_and_false():
    frame = np.full((60, 60), 100, np.uint8)
    truth, prediction = np.zeros_like(frame), np.zeros_like(frame)
    truth[:, 10:30], prediction[:, 20:40] = 255, 255
    picture = np.asarray(overlays.overlay(frame, truth, prediction)).astype(int)
    assert picture.shape == (600, 600, 3)
    for name, column in (("missed", 150), ("found", 250), ("false", 350)):
        np.testing.assert_allclose(picture[300, column], 45 + 0.55 * np.array(overlays.FILLS[name]), atol=1)
    assert (picture[300, 500] == 100).all() and (picture[300, 99] == 255).all() and (picture[300, 300] == 255).all()


@pytest.mark.parametrize("count", [10, 7])
def test_the_figure_of_overlays_shows_every_panel_whatever_cases_are_called(tmp_path, count):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA))[:count]
    figure = overlays.overlays(panels)
    assert len(figure.axes) == sum(1 + len(panel.overlays) for panel in panels)
    figures.write_png(tmp_path / "one.png", figure)
    figures.write_png(tmp_path / "two.png", overlays.overlays(panels))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_more_arms_have_fewer_pictures_each_and_differences_name_both_arms(tmp_path):
    arms = make_arms(tmp_path, FROZEN, LORA)
    three = arms | {"wide_2": arms["lora"]}
    ranks = [panel.rank for panel in overlays.panels(three)]
    assert len(ranks) == 3 * 3 + 2 * 2
    assert ranks[9:] == [
        "LoRA gains most against frozen",
        "LoRA loses most against frozen",
        "wide_2 gains most against frozen",
        "wide_2 loses most against frozen",
    ]
    many = arms | {f"wide-{i}": arms["lora"] for i in range(9)}
    assert len(overlays.panels(many)) == 8 + 7 * 2
