"""The settings of a model, in groups, and the groups of each version.

Each field has the name and the meaning of the original's flag. A version's constructor sorts its
keyword arguments into the groups that it has.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Sequence

import keras
import numpy as np

from deeplab_tf.config import MERGE_METHODS
from deeplab_tf.config import ModelConfig
from deeplab_tf.errors import UserError
from deeplab_tf.layers import arguments

# Settings of backbones; that of the whole network is in a group, too.
_OF_BACKBONE = {"batch_norm_decay", "depth_multiplier", "in_channels", "multi_grid"}
_ALL = {field.name for field in dataclasses.fields(ModelConfig)}
_ALL |= _OF_BACKBONE | {"upsample_logits"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The output of every version.

    Attributes:
        image_pyramid: Scales at which the network sees its input, such as 0.5, 0.75, 1; empty for
            the input alone.
        merge_method: How the logits of these scales are merged: "max" or "avg".
        upsample_logits: Whether the logits are resized to the size of the input.
    """

    image_pyramid: Sequence[float] = ()
    merge_method: str = "max"
    upsample_logits: bool = True

    def __post_init__(self):
        if not isinstance(self.image_pyramid, Sequence):
            raise UserError(
                f"image_pyramid is {self.image_pyramid!r}; it must be scales such as (0.5, 1)."
            )
        scales = tuple(self.image_pyramid)
        if self.has_pyramid and (min(scales) <= 0 or max(scales) < 1):
            raise UserError(
                f"image_pyramid is {scales}; all scales must be above 0, and one must be 1 or more."
            )
        if len(set(scales)) != len(scales):
            raise UserError(f"image_pyramid is {scales}; it has a scale twice.")
        if self.merge_method not in MERGE_METHODS:
            raise UserError(
                f"merge_method is {self.merge_method!r}; it must be one of "
                f"{', '.join(MERGE_METHODS)}."
            )

    @property
    def has_pyramid(self) -> bool:
        """Whether the network sees its input at another scale than its own."""
        return tuple(self.image_pyramid) not in ((), (1,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The context module of v3 and v3+.

    Attributes:
        atrous_rates: Rate of each 3x3 branch of the ASPP; `()` for none (MobileNet's light head);
            None for the papers' rates at the output stride.
        add_image_level_feature: Whether the ASPP includes image pooling.
        image_pooling_crop_size: Height and width in pixels of the input whose features image
            pooling averages; None for the whole input.
        image_pooling_stride: Steps between the windows of image pooling, down and across, in pixels
            of the features.
        image_se_uses_qsigmoid: Whether squeeze and excitation is piecewise linear.
        aspp_with_separable_conv: Whether the 3x3 branches are atrous separable convolutions.
        aspp_with_concat_projection: Whether the concatenated branches are projected.
        aspp_with_squeeze_and_excitation: Whether image pooling weighs the channels of the ASPP.
        aspp_convs_filters: Channels of every branch of the ASPP.
        dense_prediction_cell_json: Path of the JSON of a dense prediction cell, or the JSON itself;
            the cell replaces the ASPP.
        batch_norm_decay: Decay of the moving statistics after the backbone.
    """

    atrous_rates: Sequence[int] | None = None
    add_image_level_feature: bool = True
    image_pooling_crop_size: Sequence[int] | None = None
    image_pooling_stride: Sequence[int] = (1, 1)
    image_se_uses_qsigmoid: bool = False
    aspp_with_separable_conv: bool = True
    aspp_with_concat_projection: bool = True
    aspp_with_squeeze_and_excitation: bool = False
    aspp_convs_filters: int = 256
    dense_prediction_cell_json: str | None = None
    batch_norm_decay: float = 0.9997

    def __post_init__(self):
        if self.atrous_rates is not None:
            arguments.whole_numbers("atrous_rates", self.atrous_rates)
        for name in ("image_pooling_crop_size", "image_pooling_stride"):
            pair = getattr(self, name)
            if pair is not None:
                arguments.whole_numbers(name, pair, count=2, example=(513, 513))
        self._check_cell()

    def _check_cell(self) -> None:
        aspp = [
            field.name
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
            and field.name not in ("dense_prediction_cell_json", "batch_norm_decay")
        ]
        if self.dense_prediction_cell_json and aspp:
            raise UserError(
                f"{', '.join(aspp)} would shape the ASPP, but dense_prediction_cell_json replaces "
                "it. Leave one of them out."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """How v3+ refines the encoder's features.

    Attributes:
        decoder_output_stride: Input size over decoder size; a sequence for a decoder of several
            stages.
        decoder_filters: Channels of the 3x3 convolutions.
        decoder_use_separable_conv: Whether these are separable.
        decoder_use_sum_merge: Whether low-level features are added to a single convolution of the
            encoder's features, instead of concatenated with them before two.
        decoder_output_is_logits: Whether the decoder ends in the logits; its convolutions are then
            1x1, without batch norm.
    """

    decoder_output_stride: int | Sequence[int] = 4
    decoder_filters: int = 256
    decoder_use_separable_conv: bool = True
    decoder_use_sum_merge: bool = False
    decoder_output_is_logits: bool = False

    def __post_init__(self):
        if not self.strides:
            raise UserError(
                "decoder_output_stride is empty: give the stride of each stage, or choose version "
                "v3, which has no decoder."
            )
        is_sum_of_one_stage = self.decoder_use_sum_merge and len(self.strides) == 1
        if self.decoder_output_is_logits and not is_sum_of_one_stage:
            raise UserError(
                "decoder_output_is_logits is for a decoder of one stage with "
                "decoder_use_sum_merge: switch that on, or this off."
            )

    @property
    def strides(self) -> list[int]:
        """Output stride of each stage."""
        stride = self.decoder_output_stride
        if isinstance(stride, int):
            return [stride]
        return list(arguments.whole_numbers("decoder_output_stride", stride, example=(8, 4)))


def sort_settings(version: str, backbone: str | keras.Model, given: dict, *groups: type) -> list:
    """Sorts settings into the groups that a version has.

    Settings that are not given have the value that the backbone's paper fixes, or the group's
    default.

    Args:
        version: Name of the version, for messages.
        backbone: The backbone or its official name.
        given: Settings by name; None stands for "not given".
        *groups: Classes of settings.

    Returns:
        An instance of each group, then a dict of the backbone's settings.

    Raises:
        UserError: If a given setting belongs to another version, unless it is switched off, or to
            a backbone that is built already; or if the backbone is neither a name nor a model.
        TypeError: If no version has a given setting.
    """
    check_backbone(backbone)
    given = {name: _plain(value) for name, value in given.items() if value is not None}
    fields = {group: {field.name for field in dataclasses.fields(group)} for group in groups}
    known = set.union(_OF_BACKBONE, *fields.values())
    for name, value in given.items():
        if name not in _ALL:
            _refuse_unknown(version, name, known)
        if name not in known:
            if value not in (False, ()):
                raise UserError(
                    f"{name} is {value}, but {version} does not have this setting. Leave it out, "
                    "or choose another version."
                )
        elif not isinstance(backbone, str) and not any(name in group for group in fields.values()):
            raise UserError(
                f"{name} is {value}, but the backbone is built already. Give {name} to the "
                "function that builds it."
            )
    of_backbone = {name: value for name, value in given.items() if name in _OF_BACKBONE}
    given = _settings_of_paper(backbone, given) | given
    instances = [
        group(**{name: given[name] for name in fields[group] & given.keys()}) for group in groups
    ]
    return [*instances, of_backbone]


def check_pyramid(encoder: EncoderSettings, output: OutputSettings) -> None:
    """Raises a `UserError` if an image pyramid meets windows of a fixed size."""
    if output.has_pyramid and encoder.image_pooling_crop_size:
        raise UserError(
            "image_pyramid does not go with image_pooling_crop_size, whose features have another "
            "size at each scale. Leave one of them out."
        )


def default_output_stride(version: str, backbone: str) -> int:
    """Returns the output stride that the papers give a version on a backbone."""
    if version in ("v1", "v2"):
        return 8
    is_at_32 = is_mobilenet_v3(backbone) or backbone == "mobilenet_edgetpu"
    return 32 if is_at_32 else 16


def check_backbone(backbone: str | keras.Model) -> None:
    """Raises a `UserError` for anything but a name or a model."""
    if not isinstance(backbone, str | keras.Model):
        call = ": call it" if inspect.isfunction(backbone) else ""
        raise UserError(
            f"backbone is {backbone!r}; it must be an official name such as 'xception_65', or a "
            f"model that a function of deeplab_tf.backbones returns{call}."
        )


def _plain(value):
    """Returns numbers and arrays of NumPy as numbers and tuples of Python."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return tuple(value) if isinstance(value, list) else value


def _refuse_unknown(version: str, name: str, known: set[str]) -> None:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise TypeError(f"{version} got an unexpected setting {name!r}.{hint}")


def is_mobilenet_v3(backbone: str | keras.Model) -> bool:
    """Whether a backbone, or an official name of one, is a MobileNetV3."""
    name = backbone if isinstance(backbone, str) else backbone.name
    return name.lower().replace("_", "").startswith("mobilenetv3")


def _settings_of_paper(backbone: str | keras.Model, given: dict) -> dict:
    """Returns the settings of encoder and decoder that the paper of a backbone fixes.

    Reference: MobileNetV3, arXiv:1905.02244, section 6.4, with the windows of the released models.
    """
    if not is_mobilenet_v3(backbone):
        return {}
    decoder = {
        "decoder_output_stride": 8,
        "decoder_use_sum_merge": True,
        "decoder_output_is_logits": True,
    }
    if given.get("dense_prediction_cell_json"):
        return decoder
    return decoder | {
        "atrous_rates": (),
        "image_pooling_crop_size": (769, 769),
        "image_pooling_stride": (4, 5),
        "image_se_uses_qsigmoid": True,
        "aspp_convs_filters": 128,
        "aspp_with_concat_projection": False,
        "aspp_with_squeeze_and_excitation": True,
    }
