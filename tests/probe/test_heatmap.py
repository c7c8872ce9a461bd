"""The picture of the probe's cases."""

from nightshift.probe.heatmap import COLOURS, heatmap
from nightshift.probe.summary import ends


def test_it_shows_every_cause_and_is_reproducible(frame):
    svg = heatmap(frame)
    assert svg == heatmap(frame)
    assert all(COLOURS[end] in svg for end in ends(frame))
