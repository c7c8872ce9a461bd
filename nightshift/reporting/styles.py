"""How an arm is shown: its name in text, its colour and its mark.

The eight colours of a light page are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), safe for colour-blind readers,
with yellow and black changed so that they show on white and differ from the axes. Each arm also has a mark of its own,
so nothing is said by colour alone. The arms of one report get them by their order, the reference first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

INK = ("#3a4046", "#c3c8cd")  # of text and axes, on a light page (and in PNGs) and on a dark one
COLOURS = (  # the same pairs for arms
    ("#0072b2", "#56b4e9"),  # blue
    ("#d55e00", "#e69f00"),  # vermilion, orange
    ("#009e73", "#3fd0a4"),  # bluish green
    ("#cc79a7", "#eba4cb"),  # reddish purple
    ("#17191c", "#f4f4f2"),  # black, white
    ("#56b4e9", "#2f8fd0"),  # sky blue, blue
    ("#e69f00", "#ee7a3c"),  # orange, vermilion
    ("#8f8200", "#f0e442"),  # yellow
)
MARKERS = ("s", "o", "^", "D", "v", "P", "X", "*")  # as matplotlib calls them
SIGNS = dict(zip(MARKERS, "■●▲◆▼✚✖★", strict=True))
FIRST = {"frozen": "Frozen", "lora": "LoRA", "unet": "U-Net", "full": "Full"}  # well-known arms, as a first word
INSIDE = {"lora": "LoRA", "unet": "U-Net"}  # within a sentence, where it is not the name itself


@dataclass(frozen=True)
class Style:
    """`name` as in params.yaml; `index` of its colour, for CSS variables and classes (`arm-0`)."""

    name: str
    index: int
    marker: str

    @property
    def label(self) -> str:
        """The name as the first word of a sentence or as a heading."""
        return label(self.name)

    @property
    def inside(self) -> str:
        """The name within a sentence."""
        return inside(self.name)

    @property
    def colour(self) -> str:
        """On a light page."""
        return COLOURS[self.index][0]

    @property
    def sign(self) -> str:
        """The mark as a character."""
        return SIGNS[self.marker]

    @property
    def css(self) -> str:
        """The class of the template."""
        return f"arm-{self.index}"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """By name; the first is the reference. From the ninth arm on colours come again, with another mark."""
    by_name, count = {}, len(COLOURS)
    for i, name in enumerate(names):
        by_name[name] = Style(name, i % count, MARKERS[(i + i // count) % count])
    return by_name


def label(name: str) -> str:
    """The arm's name as the first word of a sentence or as a heading: `Frozen`, `LoRA`, or as params.yaml has it."""
    return FIRST.get(name, name)


def inside(name: str) -> str:
    """The arm's name within a sentence: `frozen`, `LoRA`, or as params.yaml has it."""
    return INSIDE.get(name, name)


def in_words(texts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def variables(dark: bool) -> str:
    """CSS custom properties of the arms' colours: `--arm-0:#0072b2;--arm-1:...;`."""
    return "".join(f"--arm-{i}:{pair[dark]};" for i, pair in enumerate(COLOURS))
