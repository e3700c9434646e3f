"""Draws the images of `shapes` with their exact labels.

Colour tells objects from the dull ground and most classes from one another, in every shade and
pattern. Disc and ring are of one colour: a pixel of a ring looks like one of a disc until the
network sees as far as the hole. The same form comes in sizes that differ by a factor of two, and
overlaps others.
"""

import zlib
from collections.abc import Callable

import cv2
import numpy as np

# How difficult the images are: change it here. Lengths are in pixels.
SEED = 2018
IMAGE_SIZES = ((128, 160), (112, 144), (144, 176), (160, 128))  # height, width
NUM_OBJECTS = (4, 7)  # fewest, most; fewer if they do not fit
RADII = (15.0, 32.0)  # of the circle around a form, drawn log-uniformly
STROKE = (0.32, 0.42)  # thickness of ring, frame and cross as a part of the radius ...
MIN_STROKE = 7.0  # ... but never less
MAX_STRETCH = 1.2  # a form's longer axis over its shorter one
MIN_VISIBLE = 0.65  # part of an object that others and the image's border must leave free
MIN_CONTRAST = 90.0  # distance in RGB between an object's colour and all other colours
HUES = {  # degrees; disc and ring share theirs
    "disc": (-25.0, 25.0),
    "ring": (-25.0, 25.0),
    "square": (190.0, 240.0),
    "frame": (38.0, 62.0),
    "triangle": (90.0, 140.0),
    "cross": (280.0, 320.0),
}
OBJECT_SATURATION = (0.55, 0.95)
GROUND_SATURATION = (0.0, 0.3)  # of any hue
PATTERN_CONTRAST = 0.16  # brightness of stripes, checks and dots around their colour
PATTERN_PERIODS = (7.0, 16.0)
NOISE = 5.0  # standard deviation, of 255
JPEG_QUALITY = 95
IGNORE_BAND = 3  # side of the square around a pixel that must hold one class; odd

IGNORE_LABEL = 255
_SUPERSAMPLING = 4


def _circle() -> np.ndarray:
    angles = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _square(side: float = 1.0) -> np.ndarray:
    half = side * np.sqrt(0.5)
    return np.array([[-half, -half], [half, -half], [half, half], [-half, half]])


def _triangle() -> np.ndarray:
    angles = np.pi * np.array([0.5, 7.0 / 6.0, 11.0 / 6.0])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross(stroke: float) -> np.ndarray:
    inner, outer = stroke / 2.0, np.sqrt(1.0 - stroke**2 / 4.0)
    arm = np.array([[inner, inner], [outer, inner], [outer, -inner]])
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.concatenate([arm @ np.linalg.matrix_power(turn, i) for i in range(4)])


# Class name -> contours in the unit circle, given the stroke as a part of the radius. A contour
# within another one is a hole.
FORMS: dict[str, Callable[[float], list[np.ndarray]]] = {
    "disc": lambda stroke: [_circle()],
    "ring": lambda stroke: [_circle(), (1.0 - stroke) * _circle()],
    "square": lambda stroke: [_square()],
    "frame": lambda stroke: [_square(), _square(1.0 - np.sqrt(2.0) * stroke)],
    "triangle": lambda stroke: [_triangle()],
    "cross": lambda stroke: [_cross(stroke)],
}
CLASS_NAMES = ("background", *FORMS)
COLORS = (  # of the classes when a label is shown; the images' own colours tell nothing
    (0, 0, 0),
    (239, 83, 80),
    (255, 167, 38),
    (66, 165, 245),
    (38, 198, 218),
    (102, 187, 106),
    (171, 71, 188),
)


def draw(split: str, index: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image, which depends on nothing but the arguments.

    Args:
        split: Name of the split.
        index: Number of the image in the split.
        seed: Another one gives other images.

    Returns:
        image: uint8 `[H, W, 3]`, RGB.
        label: uint8 `[H, W]`, class ids, and 255 in a thin band along every border.
    """
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), index))
    height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    colors = [_color(rng, "ground", others=[])]
    image = _pattern(rng, colors[0], height, width)
    label = np.zeros((height, width), np.uint8)
    objects = np.zeros((height, width), np.uint8)  # 0 for the background, i for the i-th object
    areas: list[float] = [height * width]  # in full, by object
    for _ in range(rng.integers(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1)):
        for _ in range(20):  # attempts to find room
            class_id = int(rng.integers(1, len(CLASS_NAMES)))
            coverage, area = cover(rng, CLASS_NAMES[class_id], height, width)  # [H, W]
            candidate = np.where(coverage >= 0.5, len(areas), objects).astype(np.uint8)
            visible = np.bincount(candidate.ravel(), minlength=len(areas) + 1)
            if np.all(visible[1:] >= MIN_VISIBLE * np.array(areas[1:] + [area])):
                break
        else:
            break
        colors.append(_color(rng, CLASS_NAMES[class_id], colors))
        image += coverage[..., None] * (_pattern(rng, colors[-1], height, width) - image)
        label[coverage >= 0.5] = class_id
        objects, areas = candidate, areas + [area]
    image += NOISE * rng.standard_normal((height, width, 1), np.float32)
    square = np.ones((IGNORE_BAND, IGNORE_BAND), np.uint8)
    # Borders between two objects of one class count too.
    border = cv2.dilate(objects, square) != cv2.erode(objects, square)
    label[border] = IGNORE_LABEL
    return np.clip(image, 0, 255).astype(np.uint8), label


def encode_jpeg(image: np.ndarray) -> bytes:
    """Returns a uint8 `[H, W, 3]` RGB image as JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", image[..., ::-1], quality)[1].tobytes()


def cover(rng: np.random.Generator, form: str, height: int, width: int) -> tuple[np.ndarray, float]:
    """Draws a form somewhere; returns how much of each pixel it covers, and its area in pixels.

    Returns:
        coverage: float32 `[H, W]` in 0..1.
        area: Of the whole form, also beyond the image's border.
    """
    radius = np.exp(rng.uniform(*np.log(RADII)))
    stroke = max(rng.uniform(*STROKE), MIN_STROKE / radius)
    stretch = np.sqrt(rng.uniform(1.0, MAX_STRETCH))
    angle = rng.uniform(0.0, 2.0 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = rng.uniform((0.0, 0.0), (width, height))
    contours = [
        contour * (stretch, 1.0 / stretch) @ turn * radius + center
        for contour in FORMS[form](stroke)
    ]
    area = abs(_area(contours[0])) - sum(abs(_area(hole)) for hole in contours[1:])
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    fixed_point = 4  # bits behind the point in OpenCV's coordinates
    points = [
        np.round((contour * _SUPERSAMPLING - 0.5) * 2**fixed_point).astype(np.int32)
        for contour in contours
    ]
    cv2.fillPoly(fine, points, 255, shift=fixed_point)
    coverage = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / 255.0, area


def _area(contour: np.ndarray) -> float:
    x, y = contour.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _color(rng: np.random.Generator, form: str, others: list[np.ndarray]) -> np.ndarray:
    """Returns an RGB colour for a form or the "ground" that stands out from the others; [3]."""
    if form == "ground":
        hues, saturations = (0.0, 360.0), GROUND_SATURATION
    else:
        hues, saturations = HUES[form], OBJECT_SATURATION
    candidates = []
    for _ in range(50):
        hsv = (rng.uniform(*hues) % 360.0, rng.uniform(*saturations), rng.uniform(0.4, 0.95))
        color = 255.0 * cv2.cvtColor(np.array([[hsv]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
        distance = min((float(np.linalg.norm(color - other)) for other in others), default=np.inf)
        if distance >= MIN_CONTRAST:
            return color
        candidates.append((distance, color))
    return max(candidates, key=lambda candidate: candidate[0])[1]


def _pattern(rng: np.random.Generator, color: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a surface of one colour with a random pattern and shading, float32 `[H, W, 3]`."""
    kind = rng.choice(["plain", "stripes", "checks", "dots", "clouds"])
    angle, period = rng.uniform(0.0, np.pi), rng.uniform(*PATTERN_PERIODS)
    slopes = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    turn = 2.0 * np.pi / period * np.array([np.cos(angle), np.sin(angle)], np.float32)
    x = np.arange(width, dtype=np.float32)[None, :]
    y = np.arange(height, dtype=np.float32)[:, None]
    across, along = turn[0] * x + turn[1] * y, turn[0] * y - turn[1] * x  # radians, [H, W]
    if kind == "plain":
        wave = np.zeros_like(across)
    elif kind == "stripes":
        wave = np.tanh(4.0 * np.sin(across))
    elif kind == "checks":
        wave = np.tanh(6.0 * np.sin(across) * np.sin(along))
    elif kind == "dots":
        wave = np.tanh(5.0 * (np.cos(across) + np.cos(along) - 0.7))
    else:
        grains = rng.standard_normal((height // 8, width // 8), np.float32)
        wave = np.tanh(cv2.resize(grains, (width, height), interpolation=cv2.INTER_CUBIC))
    shading = slopes[0] * (x / width - 0.5) + slopes[1] * (y / height - 0.5)
    brightness = 1.0 + PATTERN_CONTRAST * wave + shading
    return color * brightness[..., None]
