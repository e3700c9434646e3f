"""The figures of the concepts draw what the network computes."""

import importlib.util
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tensorflow as tf

from conftest import REPOSITORY
from deeplab_tf import layers


@pytest.fixture(scope="module")
def figures():
    path = REPOSITORY / "docs/site/figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(figure) -> list[str]:
    return [text.text for text in ET.fromstring(figure.to_svg("a figure")).iter() if text.text]


def test_every_figure_of_a_page_is_drawn_and_fits_into_its_frame(figures):
    names = set()
    for page in (REPOSITORY / "docs").rglob("*.md"):
        names |= set(re.findall(r"\(figures/(\w+)\.svg\)", page.read_text(encoding="utf-8")))
    assert names == set(figures.FIGURES)
    for name, draw in figures.FIGURES.items():
        figure = draw()
        for element in ET.fromstring(figure.to_svg(name)).iter():
            if "width" in element.attrib and "x" in element.attrib:
                right = float(element.get("x")) + float(element.get("width"))
                bottom = float(element.get("y")) + float(element.get("height"))
                assert right <= figure.width and bottom <= figure.height, (name, element.attrib)


@pytest.mark.parametrize("rate", [1, 2, 4])
def test_the_taps_are_those_of_the_layer(figures, rate):
    layer = layers.AtrousConv2D(1, 3, dilation_rate=rate, padding="same")
    image = tf.Variable(tf.zeros([1, 11, 11, 1]))
    with tf.GradientTape() as tape:
        middle = layer(image)[0, 5, 5, 0]
    seen = np.argwhere(tape.gradient(middle, image).numpy()[0, ..., 0]) - 5
    assert {tuple(map(int, place)) for place in seen} == set(figures.taps(rate))


@pytest.mark.parametrize("size, rate", [(33, 6), (33, 18), (9, 12)])
def test_the_share_of_taps_inside_is_counted_right(figures, size, rate):
    layer = layers.AtrousConv2D(1, 3, dilation_rate=rate, padding="same", kernel_initializer="ones")
    taps = layer(tf.ones([1, size, size, 1])).numpy()
    assert figures.share_of_taps_inside(size, rate) == pytest.approx(taps.sum() / (9 * size**2))


def test_the_weights_of_separable_convolution_are_counted_right(figures):
    def count(layer):
        layer(tf.zeros([1, 8, 8, 3]))
        return sum(v.shape.num_elements() for v in layer.trainable_variables if "kernel" in v.name)

    dense = count(layers.AtrousConv2D(16, 3, padding="same"))
    separable = count(layers.AtrousSeparableConv2D(16, 3))
    assert (dense, separable) == (432, 75)
    title, other, *_ = words(figures.separable_convolution())
    assert title.endswith("= 432") and other.endswith("= 75")
