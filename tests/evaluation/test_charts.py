import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitspipe.evaluation.charts import HEIGHT, WIDTH, histogram


def bars(chart):
    """(count, x, width) of each bar, the count from its title."""
    root = ElementTree.fromstring(chart.svg)
    return [
        (int(rect.find("title").text.split()[0]), float(rect.get("x")), float(rect.get("width")))
        for rect in root.iter("rect")
    ]


@given(st.lists(st.floats(0, 3000), min_size=1, max_size=40))
def test_every_value_is_in_a_bar_and_every_bar_in_the_picture(values):
    found = bars(histogram("volume", values, "ml"))
    assert sum(count for count, _, _ in found) == len(values)
    assert all(x >= 0 and x + width <= WIDTH for _, x, width in found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_scores_have_an_axis_from_0_to_1(values):
    chart = histogram("Dice", values, limits=(0, 1))
    assert sum(count for count, _, _ in bars(chart)) == len(values)
    assert f'viewBox="0 0 {WIDTH} {HEIGHT}"' in chart.svg
    assert re.findall(r">([\d.]+)</text>", chart.svg)[-3:] == ["0.00", "0.50", "1.00"]


def test_the_words_say_what_the_picture_does():
    chart = histogram("Largest tumor", [10, 20, 60, math.nan], "mm")
    assert chart.text == "3 values: median 20 mm, 10 to 60 mm"
    label = ElementTree.fromstring(chart.svg).get("aria-label")
    assert label == f"Largest tumor. {chart.text}"


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]])
def test_nothing_to_show_is_no_chart(values):
    assert histogram("Dice", values) is None


def test_bars_are_as_high_as_their_counts():
    chart = histogram("Dice", [0.01] * 4 + [0.99] * 2, limits=(0, 1))
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', chart.svg)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)


def test_texts_are_escaped():
    chart = histogram("<b>&", np.array([1.0, 2.0]), "<i>")
    assert ElementTree.fromstring(chart.svg).get("aria-label").startswith("<b>&. 2 values")
    assert "<i>" not in chart.svg
