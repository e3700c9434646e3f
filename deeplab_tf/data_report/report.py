"""What was measured and found: for a terminal, and as JSON."""

import dataclasses
import json
import textwrap

import numpy as np

from deeplab_tf.data.problems import ERROR
from deeplab_tf.data.records import DatasetInfo
from deeplab_tf.data_report.findings import Finding
from deeplab_tf.data_report.statistics import SplitStatistics
from deeplab_tf.data_report.statistics import effective_number_weights
from deeplab_tf.data_report.statistics import median_frequency_weights
from deeplab_tf.data_report.statistics import training_split
from deeplab_tf.data_report.statistics import weights_text

_WIDTH = 100  # of the terminal, columns
_BAR = 12  # columns


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image for the contact sheet; see `images.MeasuredImage.thumbnail`."""

    name: str
    problems: tuple[str, ...]  # in words
    image: np.ndarray | None
    label: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Report:
    """The figures of a data set."""

    source: str
    info: DatasetInfo
    splits: dict[str, SplitStatistics]
    findings: list[Finding]
    samples: list[Sample]

    @property
    def is_fit_to_train(self) -> bool:
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def train(self) -> str:
        """The split that weights and crop size are computed from."""
        return training_split(self.splits)

    def to_json(self) -> str:
        """Everything but the samples; class weights also as text, for a flag."""
        statistics = self.splits[self.train]
        crop, augmentation = statistics.propose_crop_size(), statistics.propose_augmentation()
        names = self.info.class_names
        fields = {
            "source": self.source,
            "is_fit_to_train": self.is_fit_to_train,
            "class_names": names,
            "ignore_label": self.info.ignore_label,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "splits": {name: self._split_fields(split) for name, split in self.splits.items()},
            "training_split": self.train,
            "train_crop_size": crop and {"size": crop[0], "reason": crop[1]},
            "augmentation": augmentation and {"flags": augmentation[0], "reason": augmentation[1]},
            "class_weights": {
                method: {
                    "by_class": {names[i]: weights.get(i) for i in range(len(names))},
                    "flag": weights_text(weights, len(names)),
                }
                for method, weights in self._weights().items()
            },
        }
        return json.dumps(fields, indent=2) + "\n"

    def to_text(self) -> str:
        """A summary for a terminal of 100 columns."""
        statistics = self.splits[self.train]
        blocks = [
            [
                self.source,
                f"{self.info.num_classes} classes, ignore label {self.info.ignore_label}",
            ],
            self._split_table(),
        ]
        if statistics.num_labels:
            blocks += [self._class_table(), self._proposals()]
        blocks += [_finding_lines(finding) for finding in self.findings]
        blocks.append([self.verdict])
        return "\n\n".join("\n".join(block) for block in blocks)

    @property
    def verdict(self) -> str:
        severities = [finding.severity for finding in self.findings]
        errors = severities.count(ERROR)
        found = f"{_number(errors, 'error')}, {_number(len(severities) - errors, 'warning')}"
        return f"{'fit' if self.is_fit_to_train else 'NOT fit'} to train: {found}"

    def _weights(self) -> dict[str, dict[int, float]]:
        statistics = self.splits[self.train]
        return {
            "median_frequency": median_frequency_weights(statistics),
            "effective_number": effective_number_weights(statistics),
        }

    def _split_fields(self, split: SplitStatistics) -> dict:
        by_area = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
        return {
            "num_images": split.num_images,
            "num_labels": split.num_labels,
            "width_height": {
                "smallest": by_area[0] if by_area else None,
                "median": split.median_size,
                "largest": by_area[-1] if by_area else None,
                "num_distinct": len(by_area),
            },
            "ignored_share": split.ignored_share,
            "mean_color": split.mean_color,
            "color_deviation": split.color_deviation,
            "classes": {
                self.info.class_names[i]: {
                    "pixels": split.pixels[i],
                    "share": split.pixel_share(i),
                    "images": split.images[i],
                }
                for i in split.class_ids
            },
            "ids_out_of_range": {str(i): split.pixels[i] for i in split.wrong_ids},
        }

    def _split_table(self) -> list[str]:
        row = "{:<16}{:>9}{:>9}{:>13}{:>13}{:>13}{:>9}{:>10}".format
        lines = [
            row("", "", "", "smallest", "median", "largest", "distinct", "ignored"),
            row("split", "images", "labels", "[px]", "[px]", "[px]", "sizes", "pixels"),
        ]
        for name, split in self.splits.items():
            by_area = sorted(split.sizes, key=lambda size: size[0] * size[1])
            sizes = [by_area[0], split.median_size, by_area[-1]] if by_area else []
            cells = [f"{width}x{height}" for width, height in sizes] or ["-"] * 3
            lines.append(
                row(
                    _short(name, 15),
                    f"{split.num_images:,}",
                    f"{split.num_labels:,}",
                    *cells,
                    f"{len(split.sizes):,}",
                    f"{split.ignored_share:.1%}",
                )
            )
        return lines

    def _class_table(self) -> list[str]:
        statistics, weights = self.splits[self.train], self._weights()
        others = [name for name in self.splits if name != self.train][:2]
        row = (f"{{:>4}} {{:<22}}{{:>8}}  {{:<{_BAR}}}{{:>9}}" + "{:>9}" * len(others)).format
        weight_row = "{:>11}{:>11}".format
        # A caption for the numbers of images, over their columns.
        lines = [
            " " * (27 + 8 + 2 + _BAR)
            + f"{'images':>9}{'':{9 * len(others)}}"
            + weight_row("weight by", "weight by"),
            row("id", "class", "pixels", "", *(_short(name, 8) for name in [self.train, *others]))
            + weight_row("median fr.", "eff. num."),
        ]
        shares = {i: statistics.pixel_share(i) for i in statistics.class_ids}
        largest = max(shares.values()) or 1
        for i, share in shares.items():
            cells = [
                "-" if i not in by_class else f"{by_class[i]:.3g}" for by_class in weights.values()
            ]
            bar = "#" * round(_BAR * share / largest)
            lines.append(
                row(
                    i,
                    _short(self.info.class_names[i], 21),
                    f"{share:.2%}",
                    bar,
                    *(f"{self.splits[name].images[i]:,}" for name in [self.train, *others]),
                )
                + weight_row(*cells)
            )
        return lines

    def _proposals(self) -> list[str]:
        statistics = self.splits[self.train]
        lines = []
        proposed = statistics.propose_crop_size()
        if proposed is not None:
            (height, width), reason = proposed
            lines += _wrapped(f"--train_crop_size={height},{width}  ({reason})", "")
            augmentation = statistics.propose_augmentation()
            if augmentation is not None:
                flags, reason = augmentation
                lines += _wrapped(f"{' '.join(flags)}  ({reason})", "")
            mean, deviation = (
                ", ".join(f"{value:.1f}" for value in values or ())
                for values in (statistics.mean_color, statistics.color_deviation)
            )
            what = "of the bands" if self.info.bands else "colour (R, G, B)"
            lines.append(f"mean {what} {mean}; standard deviation {deviation}")
        for method, weights in self._weights().items():
            # In one line, however long, so that it can be copied.
            lines.append(f"class weights by {method.replace('_', ' ')}, in the order of the ids:")
            lines.append(weights_text(weights, self.info.num_classes))
        return lines


def _finding_lines(finding: Finding) -> list[str]:
    head = "ERROR    " if finding.severity == ERROR else "WARNING  "
    count = f" ({finding.count:,})" if finding.where else ""
    lines = _wrapped(head + finding.what + count, " " * 9)
    for name in finding.where:
        lines += _wrapped(" " * 11 + name, " " * 13)
    if finding.where and finding.count > len(finding.where):
        lines.append(f"{'':11}... and {finding.count - len(finding.where):,} more")
    return lines + _wrapped(" " * 9 + "-> " + finding.remedy, " " * 12)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
