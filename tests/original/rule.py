"""What the original was given when its numbers were recorded: weights and images from a seed.

A variable's value follows from its name in the original's checkpoints and its shape alone. Every
draw comes from `numpy.random.RandomState`, whose stream NumPy has frozen.
"""

import re
import zlib

import numpy as np

# Kernels are normal with variance gain / fan_in. 1.7 keeps the second moment through a ReLU, 0.85
# through a linear layer, with the batch norm below. The first pattern that matches counts.
_GAINS = {
    r"^xception_\d+/entry_flow/conv1_1/weights": 6.0,
    r"^resnet_v1_\d+/conv1_1/weights": 6.0,
    r"^Mobilenet(V2|EdgeTPU)/Conv/weights": 6.0,
    r"^xception_\d+/exit_flow/block2/.*conv1_depthwise/depthwise_weights": 0.85,
    r"^xception_\d+/exit_flow/block2/": 1.7,
    r"^xception_\d+/.*(_pointwise|/shortcut)/weights": 0.85,
    r"^logits/": 2.5,
    "": 1.7,
}
# The last batch norm of a residual branch is scaled down, so that sums do not grow with the depth.
_GAMMA_SCALES = {
    r"^xception_\d+/middle_flow/.*conv3_pointwise/": 0.35,
    r"^xception_\d+/(entry_flow/block|exit_flow/block1/).*(conv3_pointwise|/shortcut)/": 0.7,
    r"^resnet_v1_\d+/.*/conv3/": 0.25,
    r"^MobilenetV2/.*/project/": 0.7,
    r"^MobilenetEdgeTPU/.*/project/": 0.55,
    "": 1.0,
}


def _first_match(table: dict[str, float], name: str) -> float:
    return next(value for pattern, value in table.items() if re.search(pattern, name))


def variable(name: str, shape) -> np.ndarray:
    """Returns the value of a variable.

    Args:
        name: In the original's checkpoints, such as "xception_65/entry_flow/conv1_1/weights".
        shape: Of kernels [height, width, in, out], of depthwise ones [height, width, channels, 1].

    Returns:
        float32 of this shape.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rpartition("/")[2]
    if kind in ("weights", "depthwise_weights"):
        fan_in = np.prod(shape[:3] if kind == "weights" else shape[:2])
        value = random.standard_normal(shape) * np.sqrt(_first_match(_GAINS, name) / fan_in)
    elif kind == "gamma":
        value = random.uniform(0.5, 1.5, shape) * _first_match(_GAMMA_SCALES, name)
    elif kind == "moving_variance":
        value = random.uniform(0.5, 1.5, shape)
    else:  # beta, moving_mean, biases
        value = random.standard_normal(shape) * 0.1
    return value.astype(np.float32)


def images(height: int, width: int, seed: int, number: int = 1) -> np.ndarray:
    """Draws coloured blocks of four sizes over each other; uint8 [number, height, width, 3]."""
    random = np.random.RandomState(seed)
    batch = []
    for _ in range(number):
        image = np.full((height, width, 3), 127.5)
        for side, amplitude in ((48, 70), (20, 60), (7, 40), (3, 30)):
            colors = random.uniform(-1, 1, (height // side + 2, width // side + 2, 3))
            top, left = random.randint(0, side, 2)
            blocks = np.round(colors * 4) / 4
            blocks = np.repeat(np.repeat(blocks, side, axis=0), side, axis=1)
            image += amplitude * blocks[top : top + height, left : left + width]
        batch.append(np.clip(np.round(image), 0, 255).astype(np.uint8))
    return np.stack(batch)
