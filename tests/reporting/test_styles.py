"""Colours and marks of arms: distinct up to eight, on a light page and on a dark one, for the colour-blind too."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from nightshift.reporting import styles

# What linear red, green and blue become for someone without one kind of cone (Machado, Oliveira and Fernandes, IEEE
# Transactions on Visualization and Computer Graphics 15, 2009, severity 1.0).
VISION = {
    "trichromat": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LEAST = 10  # CIEDE2000; Okabe and Ito's own eight have 10.9


def linear(colours):
    rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(colours, vision):
    """In CIELAB, (n, 3)."""
    light = np.clip(linear(colours) @ np.array(VISION[vision]).T, 0, 1)
    return rgb2lab(np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)[None])[0]


def least_distance(colours, vision):
    return min(deltaE_ciede2000(a, b) for a, b in combinations(seen(colours, vision), 2))


def test_the_simulation_is_right():
    """Red and green of equal lightness are one colour without the one cone or the other; blue and yellow never are."""
    red, green = "#c04000", "#6a7a00"
    assert least_distance([red, green], "trichromat") > 30
    assert least_distance([red, green], "deuteranope") < 10 < least_distance([red, green], "tritanope")
    assert all(least_distance(["#0000ff", "#ffff00"], vision) > 50 for vision in VISION)
    assert all(least_distance(["#ffffff", "#808080"], vision) > 25 for vision in VISION)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("page", ["light", "dark"])
def test_colours_of_eight_arms_are_distinct_for_everyone(page, vision):
    colours = [pair[page == "dark"] for pair in styles.COLOURS]
    assert len(colours) == 8 and least_distance(colours, vision) > LEAST


@pytest.mark.parametrize(("page", "which"), [("#ffffff", 0), ("#1b1f23", 1)])
def test_colours_of_arms_show_on_their_page(page, which):
    colours = [pair[which] for pair in styles.COLOURS]
    paper, *inks = linear([page, *colours]) @ [0.2126, 0.7152, 0.0722]
    contrast = [(max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) for ink in inks]
    assert min(contrast) > 2.2 and min(contrast[:6]) > 3  # WCAG asks 3 of what is not text; all have a mark, too


def test_eight_arms_have_colours_and_marks_of_their_own_and_the_reference_the_first():
    shown = list(styles.styles(["unet", *(f"arm{i}" for i in range(19))]).values())
    assert (shown[0].colour, shown[0].marker, shown[0].label) == ("#0072b2", "s", "U-Net")
    assert (shown[1].colour, shown[1].marker) == ("#d55e00", "o")
    for values in ([s.colour for s in shown[:8]], [s.sign for s in shown[:8]], [(s.index, s.marker) for s in shown]):
        assert len(set(values)) == len(values)


def test_arms_in_a_sentence():
    assert styles.subject(["zero_shot", "lora", "mine"]) == "Zero-shot, LoRA and mine"
    assert styles.subject(["vesselness"]) == "Vesselness"
