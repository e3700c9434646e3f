"""The settings of released weights, which follow from their name."""

import dataclasses
import typing
from collections.abc import Sequence

from deeplab_tf import zoo
from deeplab_tf.config import NO_DATA_SETTINGS
from deeplab_tf.config import NO_MODEL_SETTINGS
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.data import published_classes
from deeplab_tf.errors import UserError
from deeplab_tf.models import DecoderSettings
from deeplab_tf.models import EncoderSettings
from deeplab_tf.models import OutputSettings
from deeplab_tf.models.dense_prediction_cell import cell_to_text
from deeplab_tf.models.settings import sort_settings

# Settings that do not change the variables, or only the first kernel, which is spread over the
# channels of the images: the weights can be used with other values of them.
_FREE = frozenset(
    {
        "in_channels",
        "output_stride",
        "atrous_rates",
        "multi_grid",
        "image_pooling_crop_size",
        "image_pooling_stride",
        "image_pyramid",
        "merge_method",
        "batch_norm_decay",
    }
)

_PAPERS_BRANCHES = 3  # with an atrous rate each


class Settings(typing.NamedTuple):
    """The settings of released weights.

    Attributes:
        model_config: The network.
        data_config: The data that the weights were trained on; `data_dir` only if it was given.
        notes: For each given value that replaces a setting of the release, a sentence.
    """

    model_config: ModelConfig
    data_config: DataConfig
    notes: list[str]


def settings_of(
    name: str,
    model_config: ModelConfig = NO_MODEL_SETTINGS,
    data_config: DataConfig = NO_DATA_SETTINGS,
) -> Settings:
    """Returns the settings of released weights.

    Args:
        name: A name of `zoo.ENTRIES`.
        model_config: Settings to use in place of those of the release, such as another output
            stride. Only those that were given count, see `Config.given`.
        data_config: The same for the data.

    Raises:
        UserError: There is no such name, the weights are those of a backbone alone, or a given
            setting describes another network.
    """
    entry = zoo.find_entry(name)
    if entry.is_backbone:
        raise UserError(
            f"{name} has the weights of a backbone alone, without classes. Train a network from "
            f"them: python -m deeplab_tf.train --tf_initial_checkpoint={name}."
        )
    released = _released_settings(entry)
    others = {
        one: value
        for one, value in model_config.given().items()
        if not _agree(one, value, released)
    }
    contradictions = [one for one in others if not _is_free(one, others[one], released)]
    if contradictions:
        listed = ", ".join(f"--{one}={_text(others[one])}" for one in contradictions)
        theirs = ", ".join(f"{one}={_text(released.get(one))}" for one in contradictions)
        raise UserError(
            f"{listed} describes another network than {name}, which has {theirs}. Leave out what "
            "follows from the name."
        )
    return Settings(
        ModelConfig(**{**entry.model, **others, "num_classes": released["num_classes"]}),
        DataConfig(**{**entry.data_settings, **data_config.given()}),
        [
            f"--{one}={_text(value)} in place of {_text(released.get(one))} of {name}"
            for one, value in others.items()
        ],
    )


def _released_settings(entry: zoo.Entry) -> dict:
    """Returns the settings that a released network has, also those that are defaults."""
    settings = dict(entry.model)
    whole = {name: settings.pop(name) for name in ("version", "backbone", "output_stride")}
    has_decoder = whole["version"] == "v3plus"
    groups = [EncoderSettings, OutputSettings, *[DecoderSettings] * has_decoder]
    *parts, _ = sort_settings(whole["version"], whole["backbone"], settings, *groups)
    num_classes = published_classes.BY_DATASET[entry.data].num_classes
    released = whole | {"num_classes": num_classes, "in_channels": 3, "depth_multiplier": 1.0}
    for part in parts:
        released |= dataclasses.asdict(part)
    if has_decoder:
        released["decoder_output_stride"] = parts[-1].strides
        if released["decoder_output_is_logits"]:
            released["decoder_filters"] = num_classes
    return released | settings


def _agree(name: str, given, released: dict) -> bool:
    """Whether a given setting is that of the release, or switches off what the release lacks."""
    if name not in released:
        return given in (False, ())
    value = released[name]
    if name == "dense_prediction_cell_json" and value:
        return cell_to_text(given) == cell_to_text(value)
    if isinstance(value, Sequence) and isinstance(given, tuple):
        return list(given) == list(value)
    return given == value


def _is_free(name: str, given: Sequence, released: dict) -> bool:
    """Whether the weights can be used with a given setting that is not that of the release."""
    if name == "atrous_rates":  # every rate has a branch with weights of its own
        rates = released["atrous_rates"]
        return len(given) == (_PAPERS_BRANCHES if rates is None else len(rates))
    return name in _FREE


def _text(value) -> str:
    if value is None:
        return "(default)"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
