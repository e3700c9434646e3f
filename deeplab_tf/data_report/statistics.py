"""Counts over the images of a split, and what follows: class weights, crop size, mean colour."""

import collections
import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from deeplab_tf.data_report.images import MeasuredImage

UNLISTED = "unlisted"  # the split of images that no list names, where there are lists
OUTPUT_STRIDE = 16
LARGEST_CROP = 513  # pixels, the original's on Pascal VOC
EFFECTIVE_NUMBER_BETA = 0.999
# When images have no top: with enough labels, no class above this share has its mean row farther
# from the middle than this, as a share of the height.
MIN_LABELS_WITH_A_PLACE, MIN_SHARE_WITH_A_PLACE, LARGEST_OFFSET = 8, 0.02, 0.05


@dataclasses.dataclass
class SplitStatistics:
    """Sums over the images of one split.

    Args:
        num_classes: Ids are 0 .. num_classes - 1.
        ignore_label: No class, even where it lies among these ids.
    """

    num_classes: int
    ignore_label: int
    num_images: int = 0
    num_labels: int = 0
    # By id, those out of range too.
    pixels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    # By class: the pixels that count in the images with this class.
    pixels_beside: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    # float64 [2, channels]
    color_sums: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 1)))
    num_grey: int = 0  # images
    # By class, over the thumbnails: the sum of the rows, from 0 (top) to 1, and the pixels.
    row_sums: dict[int, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )
    row_pixels: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, image: MeasuredImage) -> None:
        """Counts an image in, as far as it could be read."""
        if image.size:
            self.num_images += 1
            self.sizes[image.size] += 1
            self.color_sums = self.color_sums + image.color_sums
            self.num_grey += image.is_grey
        for class_id, (rows, pixels) in image.rows_by_class.items():
            self.row_sums[class_id] += rows
            self.row_pixels[class_id] += pixels
        if image.pixels_by_id:
            self.add_label(image.pixels_by_id)

    def add_label(self, pixels_by_id: Mapping[int, int]) -> None:
        """Counts a label in."""
        self.num_labels += 1
        counted = {i: pixels_by_id.get(i, 0) for i in self.class_ids}
        total = sum(counted.values())
        self.pixels.update(pixels_by_id)
        self.images.update(pixels_by_id.keys())
        self.pixels_beside.update({i: total for i, pixels in counted.items() if pixels})

    @property
    def class_ids(self) -> list[int]:
        return [i for i in range(self.num_classes) if i != self.ignore_label]

    @property
    def wrong_ids(self) -> list[int]:
        """The ids out of range that occur."""
        classes = range(self.num_classes)
        return sorted(i for i in self.pixels if i not in classes and i != self.ignore_label)

    @property
    def absent_classes(self) -> list[int]:
        return [i for i in self.class_ids if not self.pixels[i]]

    def pixel_share(self, class_id: int) -> float:
        """Returns the share of a class in the pixels that count."""
        total = sum(self.pixels[i] for i in self.class_ids)
        return self.pixels[class_id] / total if total else 0.0

    @property
    def ignored_share(self) -> float:
        """The share of the ignored pixels in all."""
        return self.pixels[self.ignore_label] / max(1, self.pixels.total())

    @property
    def mean_color(self) -> list[float] | None:
        """Mean of each channel over all pixels, in 0..255."""
        return (self.color_sums[0] / self._num_pixels).tolist() if self.sizes else None

    @property
    def color_deviation(self) -> list[float] | None:
        """Standard deviation of each channel over all pixels, in 0..255."""
        if not self.sizes:
            return None
        mean, mean_square = self.color_sums / self._num_pixels
        return np.sqrt(np.maximum(mean_square - mean**2, 0)).tolist()

    @property
    def median_size(self) -> tuple[int, int] | None:
        """The median of the widths and that of the heights, in pixels."""
        if not self.sizes:
            return None
        return (_median(w for w, _ in self._each_size()), _median(h for _, h in self._each_size()))

    def propose_crop_size(
        self, largest: int = LARGEST_CROP, shorter_side: int | None = None
    ) -> tuple[tuple[int, int], str] | None:
        """Proposes height and width of a training crop: about the median image.

        At output stride 16, features lie on the first and the last pixel of a crop whose sides are
        a multiple of 16 plus 1.

        Args:
            largest: The longest side of a crop in pixels.
            shorter_side: Length in pixels to which the shorter side of every image is resized
                first; None for none.

        Returns:
            Height and width in pixels, and why; None without images.
        """
        if self.median_size is None:
            return None
        width, height = self.median_size
        upright = sum(1 for w, h in self._each_size() if h > w) / self.sizes.total()
        lying = sum(1 for w, h in self._each_size() if h < w) / self.sizes.total()
        reason = f"the median image, {width}x{height}, with sides of {OUTPUT_STRIDE} k + 1"
        if min(upright, lying) >= 0.1:
            width = height = _median(max(size) for size in self._each_size())
            reason = (
                f"square, for images upright and lying, about their median longer side, {width}"
            )
        scale = shorter_side / min(height, width) if shorter_side else 1
        height, width = (
            OUTPUT_STRIDE * math.ceil((round(side * scale) - 1) / OUTPUT_STRIDE) + 1
            for side in (height, width)
        )
        if max(height, width) > largest:
            reason += f"; at most {largest}, to save memory and time"
        return (min(height, largest), min(width, largest)), reason

    def propose_augmentation(self) -> tuple[list[str], str] | None:
        """Proposes flips, turns and distortions for images that have no top and bottom.

        In photos of streets or rooms, some class lies higher than the others on average. In images
        from above or under a microscope, none does. Most grey images without a top are of tissue or
        material, which elastic distortion varies.

        Returns:
            Flags, and why; None for images with a top, or too few to tell.
        """
        total = self.row_pixels.total()
        heights = [
            self.row_sums[i] / self.row_pixels[i]
            for i in self.class_ids
            if self.row_pixels[i] > MIN_SHARE_WITH_A_PLACE * total
        ]
        if self.num_labels < MIN_LABELS_WITH_A_PLACE or len(heights) < 2:
            return None
        if max(abs(height - 0.5) for height in heights) > LARGEST_OFFSET:
            return None
        flags = ["--vertical_flip", "--quarter_turns"]
        if self.num_grey == self.num_images:
            flags.append("--elastic_shift=10")
        return flags, "no class lies higher in the images than the others"

    def _each_size(self) -> list[tuple[int, int]]:
        return list(self.sizes.elements())

    @property
    def _num_pixels(self) -> int:
        return sum(width * height * count for (width, height), count in self.sizes.items())


def median_frequency_weights(statistics: SplitStatistics) -> dict[int, float]:
    """Returns the weights of the classes that occur: median of the frequencies / frequency.

    The frequency of a class is its share in the pixels of the images that have it, ignored
    pixels left out.

    Reference:
        Median frequency balancing in Eigen and Fergus, arXiv:1411.4734, and SegNet,
        arXiv:1511.00561.
    """
    frequencies = {
        i: statistics.pixels[i] / statistics.pixels_beside[i]
        for i in statistics.class_ids
        if statistics.pixels[i]
    }
    if not frequencies:
        return {}
    median = float(np.median(list(frequencies.values())))
    return {i: median / frequency for i, frequency in frequencies.items()}


def effective_number_weights(
    statistics: SplitStatistics, beta: float = EFFECTIVE_NUMBER_BETA
) -> dict[int, float]:
    """Returns the weights of the classes that occur: (1 - beta) / (1 - beta^n), of mean 1.

    A sample is an image: n are the images that have the class. The pixels of one image are not
    independent samples, and with millions of them every beta of the paper gives equal weights.

    Reference:
        Cui et al., Class-Balanced Loss, arXiv:1901.05555, proposition 1.
    """
    weights = {
        i: (1 - beta) / (1 - beta ** statistics.images[i])
        for i in statistics.class_ids
        if statistics.images[i]
    }
    mean = sum(weights.values()) / max(1, len(weights))
    return {i: weight / mean for i, weight in weights.items()}


def weights_text(weights: Mapping[int, float], num_classes: int) -> str:
    """Returns weights as a flag takes them, in the order of the ids; 1 where a class is absent."""
    return ",".join(f"{weights.get(i, 1.0):.4g}" for i in range(num_classes))


def split_role(split: str) -> str:
    """Returns "train" for splits to train on, their own name for others; "" for unions."""
    if split.startswith(("trainval", UNLISTED)):
        return ""
    return "train" if split.startswith("train") else split


def is_leak(split: str, other: str) -> bool:
    """Whether an image in both splits spoils an evaluation; not in train and train_aug."""
    roles = {split_role(split), split_role(other)}
    return len(roles) == 2 and "" not in roles


def training_split(splits: Mapping[str, SplitStatistics]) -> str:
    """Returns the split that training would take: `train`, or the largest that is for it."""
    if "train" in splits:
        return "train"
    candidates = [name for name in splits if split_role(name) == "train"]
    return max(candidates or splits, key=lambda name: splits[name].num_images)


def _median(values) -> int:
    return int(np.median(np.fromiter(values, np.int64)))
