"""How an arm is shown: its name in text, its colour and its mark.

The eight colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), which colour-blind readers can tell apart. Their
yellow does not show on a light page, nor their black on a dark one: brown and white take the places. Each arm also has
a mark of its own, so nothing is said by colour alone. The arms of one report get them by their order, the reference
first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

INK = ("#3a4046", "#c3c8cd")  # of text and axes, on a light page (and in PNGs) and on a dark one
COLOURS = (  # the same pairs for arms; within a page each is used once
    ("#0072b2", "#56b4e9"),  # blue, sky blue
    ("#d55e00", "#e69f00"),  # vermilion, orange
    ("#009e73", "#009e73"),  # bluish green
    ("#cc79a7", "#cc79a7"),  # reddish purple
    ("#17191c", "#f4f4f2"),  # black, white
    ("#6c2400", "#f0e442"),  # brown, yellow
    ("#56b4e9", "#0072b2"),  # sky blue, blue
    ("#e69f00", "#d55e00"),  # orange, vermilion
)
MARKERS = ("s", "o", "^", "D", "v", "P", "X", "*")  # as matplotlib calls them
SIZES = {"P": 8, "X": 8, "*": 11}
SIGNS = dict(zip(MARKERS, "■●▲◆▼✚✖★", strict=True))
INSIDE = {"lora": "LoRA", "unet": "U-Net", "zero_shot": "zero-shot"}  # well-known arms, within a sentence
FIRST = INSIDE | {"frozen": "Frozen", "full": "Full", "vesselness": "Vesselness", "zero_shot": "Zero-shot"}


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
    def size(self) -> float:
        """Of the mark, as matplotlib's markersize: all look equally large."""
        return SIZES.get(self.marker, 7)

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


def subject(names: Iterable[str]) -> str:
    """Arms as the first words of a sentence: `Frozen, LoRA and U-Net`."""
    first, *others = names
    return in_words([label(first), *map(inside, others)])


def in_words(texts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def variables(dark: bool) -> str:
    """CSS custom properties of the arms' colours: `--arm-0:#0072b2;--arm-1:...;`."""
    return "".join(f"--arm-{i}:{pair[dark]};" for i, pair in enumerate(COLOURS))
