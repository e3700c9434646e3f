"""The activations of MobileNetV3."""

import numpy as np

from deeplab_tf import layers


def test_h_swish_and_q_sigmoid_are_those_of_mobilenet_v3():
    x = np.array([-4, -3, -1.5, 0, 1.5, 3, 4], "float32")
    np.testing.assert_allclose(layers.h_swish(x), [0, 0, -0.375, 0, 1.125, 3, 4], atol=1e-6)
    gates = np.array([0, 0, 1.5, 3, 4.5, 6, 6]) * 0.16667
    np.testing.assert_allclose(layers.q_sigmoid(x), gates, rtol=1e-6)
