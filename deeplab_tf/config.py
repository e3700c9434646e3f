"""What a run is made of: the model, the data, the training.

The command-line flags are made from these fields (`command_line.py`), and carry the names of the
official DeepLab flags where there is one. Only mains read flags: everything below takes plain
arguments.
"""

import dataclasses

from deeplab_tf.errors import UserError


def setting(default, help):
    """A dataclass field with the sentence that `--help` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The arguments of `deeplab_tf.build_model`."""

    version: str = setting("v3plus", "DeepLab generation: v1, v2, v3 or v3plus.")
    backbone: str = setting("mobilenet_v2", "Network the features come from, e.g. xception_65.")
    num_classes: int | None = setting(
        None, "Classes of the logits. By default those of the records that are trained on."
    )
    output_stride: int | None = setting(
        None,
        "Input size over feature size: 4, 8, 16 or 32. By default 8 with v1 and v2, 32 with "
        "MobileNetV3, 16 with all others.",
    )
    atrous_rates: tuple[int, ...] | None = setting(
        None,
        "Rates of the ASPP branches, e.g. 6,12,18; empty for none. By default those that the "
        "papers tie to the output stride.",
    )
    multi_grid: tuple[int, ...] | None = setting(
        None,
        "Rate multipliers of the last block's three units. By default the paper's: 1,2,4 with v3 "
        "and v3plus on a ResNet, 1,1,1 elsewhere.",
    )
    depth_multiplier: float = setting(1.0, "Scales the filters of a MobileNet.")
    decoder_output_stride: tuple[int, ...] | None = setting(
        None,
        "Input size over decoder size of v3plus, a number for each stage. By default the paper's "
        "4, or 8 with MobileNetV3.",
    )
    add_image_level_feature: bool | None = setting(None, "Adds image pooling to the ASPP [true].")
    image_pooling_crop_size: tuple[int, ...] | None = setting(
        None,
        "Height,width of the input whose whole feature map image pooling averages. By default "
        "whatever the input is, or 769,769 with MobileNetV3.",
    )
    image_pooling_stride: tuple[int, ...] | None = setting(
        None, "Steps between image pooling's windows. By default 1,1, or 4,5 with MobileNetV3."
    )
    image_se_uses_qsigmoid: bool | None = setting(
        None, "Piecewise linear squeeze and excitation [true with MobileNetV3]."
    )
    aspp_with_separable_conv: bool | None = setting(
        None, "Atrous separable convolution in the ASPP [true]."
    )
    aspp_with_concat_projection: bool | None = setting(
        None, "Projects the ASPP branches together [true; false with MobileNetV3]."
    )
    aspp_with_squeeze_and_excitation: bool | None = setting(
        None, "Image pooling weighs the channels of the ASPP [false; true with MobileNetV3]."
    )
    aspp_convs_filters: int | None = setting(
        None, "Filters of every ASPP branch. By default 256, or 128 with MobileNetV3."
    )
    dense_prediction_cell_json: str | None = setting(
        None, "File of a dense prediction cell, or its JSON itself, instead of the ASPP."
    )
    decoder_use_separable_conv: bool | None = setting(
        None, "Separable convolution in the decoder [true]."
    )
    decoder_use_sum_merge: bool | None = setting(
        None, "The decoder adds the low-level features [false; true with MobileNetV3]."
    )
    decoder_output_is_logits: bool | None = setting(
        None, "The decoder ends in the logits [false; true with MobileNetV3]."
    )
    decoder_filters: int | None = setting(
        None, "Filters of the decoder's two 3x3 convolutions. By default 256."
    )
    fc6_kernel_size: int | None = setting(
        None, "Kernel of v1's fc6: 3 for LargeFOV, 4 or 7 for the paper's other fields of view [3]."
    )
    fc_filters: int | None = setting(
        None,
        "Filters of fc6 and fc7 on VGG-16. By default 1024, or 4096 with a kernel larger than 3.",
    )
    last_block: int | None = setting(
        None, "4 to 7: v3's cascaded variant on a ResNet, which ends there and has no ASPP."
    )
    image_pyramid: tuple[float, ...] = setting(
        (), "Scales at which the network sees its input, e.g. 0.5,0.75,1; empty for the input only."
    )
    merge_method: str = setting("max", "How the logits of those scales are merged: max or avg.")
    batch_norm_decay: float | None = setting(
        None,
        "Decay of the moving statistics everywhere. By default the original's, part by part "
        "(0.997 and 0.9997), which want tens of thousands of steps.",
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which records are read, and how they become training crops."""

    data_dir: str = setting("", "Folder of the records, or the data_dir they were built in.")
    dataset: str = setting("", "Name of the dataset, where data_dir holds several.")
    train_split: str = setting("train", "Split that is trained on.")
    val_split: str = setting("val", "Split that is validated on; empty for no validation.")
    ignore_label: int | None = setting(
        None, "Label of pixels that do not count. By default what the records say."
    )
    train_crop_size: tuple[int, ...] = setting((513, 513), "Height,width of a training crop.")
    min_resize_value: int | None = setting(
        None, "Resize every image so that its shorter side is this many pixels ..."
    )
    max_resize_value: int | None = setting(None, "... unless its longer side would exceed this.")
    resize_factor: int | None = setting(
        None, "Resized sides are rounded up to a multiple of this, plus 1."
    )
    min_scale_factor: float = setting(0.5, "Smallest random scale of a training image.")
    max_scale_factor: float = setting(2.0, "Largest random scale of a training image.")
    scale_factor_step_size: float = setting(0.25, "Step between the scales; 0 for any between.")
    random_flip: bool = setting(True, "Flips half of the training images left to right.")
    crop_max_class_share: float = setting(
        1.0, "Draws a crop again, up to ten times, that one class fills to more than this share."
    )
    max_rotation: float = setting(0.0, "Turns training crops by up to this many degrees.")
    brightness: float = setting(0.0, "Multiplies brightness by 1 minus this to 1 plus this.")
    contrast: float = setting(0.0, "Does so with the contrast ...")
    saturation: float = setting(0.0, "... and with the saturation.")
    hue: float = setting(0.0, "Turns the hue by up to this share of the colour circle (0.5).")
    max_blur_sigma: float = setting(
        0.0, "Blurs half of the training crops with a deviation of up to this many pixels."
    )
    oversample_classes: str = setting(
        "", "Classes, by name with commas, whose training images come several times an epoch ..."
    )
    oversample_factor: int = setting(2, "... that is, this many times.")
    extra_data_dirs: str = setting(
        "", "Further folders of records, with commas, that training images come from."
    )
    data_weights: tuple[int, ...] = setting(
        (),
        "How often data_dir and each of extra_data_dirs give an image, e.g. 2,1. By default as "
        "often as they have images.",
    )
    max_damaged_share: float = setting(
        0.01,
        "Damaged training records are left out and told of; more than this share of all (and more "
        "than one) stops the run. 0 stops it at the first.",
    )
    max_image_pixels: int = setting(
        2**26,
        "Images and labels with more pixels than this (width x height) are refused before they are "
        "decoded.",
    )
    data_service: str = setting(
        "", "Address of a deeplab_tf.data_service that makes the batches: grpc://host:port."
    )

    def __post_init__(self):
        size = self.train_crop_size
        _check(
            len(size) == 2 and min(size) > 0,
            f"--train_crop_size={','.join(map(str, size))} is no height,width such as 321,321.",
        )
        _check(
            0 < self.min_scale_factor <= self.max_scale_factor and self.scale_factor_step_size >= 0,
            f"No scales lie between --min_scale_factor={self.min_scale_factor} and "
            f"--max_scale_factor={self.max_scale_factor} in steps of "
            f"--scale_factor_step_size={self.scale_factor_step_size}.",
        )
        for name in ("brightness", "contrast", "saturation", "max_blur_sigma", "max_rotation"):
            _check(getattr(self, name) >= 0, f"--{name}={getattr(self, name)}; 0 switches it off.")
        _check(0 <= self.hue <= 0.5, f"--hue={self.hue} is no share of the colour circle, 0 to 0.5")
        _check(
            0 < self.crop_max_class_share <= 1,
            f"--crop_max_class_share={self.crop_max_class_share} is no share; 1 switches it off.",
        )
        _check(
            0 <= self.max_damaged_share < 1,
            f"--max_damaged_share={self.max_damaged_share} is no share such as 0.01.",
        )
        _check(self.oversample_factor > 0, f"--oversample_factor={self.oversample_factor}; give 2.")
        _check(
            all(weight > 0 for weight in self.data_weights),
            f"--data_weights={','.join(map(str, self.data_weights))}; each must be 1 or more.",
        )
        _check(
            self.min_resize_value or not (self.max_resize_value or self.resize_factor),
            "--max_resize_value and --resize_factor go with --min_resize_value: give it too.",
        )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained."""

    # Length, and where it starts.
    training_number_of_steps: int = setting(30000, "Optimizer steps of the whole run.")
    train_batch_size: int = setting(8, "Images per step, over all devices.")
    gradient_accumulation_steps: int = setting(
        1, "Parts that a batch is worked through in, one after the other, to save memory."
    )
    tf_initial_checkpoint: str = setting(
        "",
        "Official TF1 checkpoint to start from, a whole model or an ImageNet backbone; or the "
        "run dir of another training, whose best weights are taken.",
    )
    skip_mismatched: bool = setting(
        False, "Leaves out what that checkpoint lacks or has in another shape (other classes)."
    )
    seed: int = setting(0, "The run repeats with the same seed.")

    # Optimizer and learning rate.
    optimizer: str = setting("momentum", "momentum or adamw.")
    momentum: float = setting(0.9, "Momentum of the SGD.")
    weight_decay: float = setting(
        4e-5, "On dense kernels, not on depthwise ones, biases or batch norm: L2, or AdamW's own."
    )
    learning_policy: str = setting("poly", "How the learning rate decays: poly, step or cosine.")
    base_learning_rate: float = setting(0.007, "Learning rate as the policy begins.")
    learning_power: float = setting(0.9, "Power of poly.")
    end_learning_rate: float = setting(0.0, "What poly and cosine decay to ...")
    decay_steps: int = setting(0, "... in this many steps; 0 for all steps of the run.")
    learning_rate_decay_factor: float = setting(0.1, "What step multiplies the rate with ...")
    learning_rate_decay_step: int = setting(2000, "... every this many steps.")
    slow_start_step: int = setting(0, "Steps at slow_start_learning_rate before the policy.")
    warmup_steps: int = setting(0, "Or steps in which the rate climbs from it to the base.")
    slow_start_learning_rate: float = setting(1e-4, "Learning rate of the first step of these.")
    last_layer_gradient_multiplier: float = setting(
        1.0, "Multiplies the gradients of everything behind the backbone."
    )
    last_layers_contain_logits_only: bool = setting(
        False, "That multiplies the gradients of the logits' layers only."
    )
    backbone_gradient_multiplier: float = setting(1.0, "Multiplies those of the backbone.")
    clip_gradient_norm: float = setting(0.0, "Largest norm of all gradients; 0 for any.")
    moving_average_decay: float = setting(
        0.0, "Evaluates the moving average of the weights, of this decay, e.g. 0.9999; 0 for none."
    )

    # What is trained.
    fine_tune_batch_norm: bool = setting(
        True, "Trains with batch statistics, which want a batch of 12 or more; frozen if false."
    )
    frozen_scopes: str = setting(
        "", "Scopes that stay as they are, with commas, e.g. resnet_v1_50/block1."
    )

    # Loss: the sum of its terms.
    cross_entropy_weight: float = setting(1.0, "Weight of the cross-entropy.")
    class_weights: tuple[float, ...] = setting(
        (), "Weight of each class in cross-entropy and focal loss, in their order; empty for 1."
    )
    top_k_percent_pixels: float = setting(
        1.0, "Share, 0 to 1, of the pixels, the hardest, that the cross-entropy is of."
    )
    hard_example_mining_step: int = setting(0, "Steps in which that share falls from 1.")
    focal_weight: float = setting(0.0, "Weight of the focal loss.")
    focal_gamma: float = setting(2.0, "How much less it makes of well classified pixels.")
    dice_weight: float = setting(0.0, "Weight of the Dice loss.")
    lovasz_weight: float = setting(0.0, "Weight of the Lovász-softmax loss.")

    # Devices and speed.
    strategy: str = setting(
        "auto", "Devices to train on: auto, one_device, mirrored, multi_worker or tpu."
    )
    mixed_precision: str = setting(
        "", "Computes in bfloat16 or float16, with weights and loss in float32; empty for float32."
    )
    jit_compile: bool = setting(False, "Compiles the network with XLA: not on a CPU.")
    steps_per_execution: int = setting(
        0, "Steps at most that run without a look at the clock; 0 for all until the next event."
    )
    profile_steps: tuple[int, ...] = setting(
        (), "First,last step of a profile for TensorBoard, e.g. 100,110; empty for none."
    )

    # Events.
    log_every_steps: int = setting(20, "Steps between two points of the loss curve.")
    eval_every_steps: int = setting(1000, "Steps between two validations.")
    save_every_steps: int = setting(500, "Steps between two checkpoints.")

    def __post_init__(self):
        for name in (
            "training_number_of_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate_decay_step",
            "log_every_steps",
            "eval_every_steps",
            "save_every_steps",
        ):
            value = getattr(self, name)
            _check(value > 0, f"--{name}={value}; it must be 1 or more.")
        for name in (
            "weight_decay",
            "end_learning_rate",
            "decay_steps",
            "slow_start_step",
            "warmup_steps",
            "backbone_gradient_multiplier",
            "clip_gradient_norm",
            "hard_example_mining_step",
            "steps_per_execution",
            *_LOSS_WEIGHTS,
        ):
            value = getattr(self, name)
            _check(value >= 0, f"--{name}={value}; it must be 0 or more.")
        for name, choices in (
            ("optimizer", ("momentum", "adamw")),
            ("learning_policy", ("poly", "step", "cosine")),
            ("mixed_precision", ("", "bfloat16", "float16")),
        ):
            value = getattr(self, name)
            _check(
                value in choices,
                f"--{name}={value}; it can be {', '.join(filter(None, choices))}"
                f"{' or empty' if '' in choices else ''}.",
            )
        _check(
            self.train_batch_size % self.gradient_accumulation_steps == 0,
            f"--train_batch_size={self.train_batch_size} does not divide into "
            f"--gradient_accumulation_steps={self.gradient_accumulation_steps} equal parts.",
        )
        _check(
            any(getattr(self, name) for name in _LOSS_WEIGHTS),
            f"There is no loss: give one of --{', --'.join(_LOSS_WEIGHTS)} a weight above 0.",
        )
        _check(
            all(weight >= 0 for weight in self.class_weights)
            and (any(self.class_weights) or not self.class_weights),
            f"--class_weights={','.join(map(str, self.class_weights))}; none can be below 0, and "
            "one must be above.",
        )
        _check(
            0 < self.top_k_percent_pixels <= 1,
            f"--top_k_percent_pixels={self.top_k_percent_pixels} is no share; in spite of its name "
            "it takes 0.25 for a quarter of the pixels, and 1 for all.",
        )
        _check(
            0 <= self.moving_average_decay < 1,
            f"--moving_average_decay={self.moving_average_decay}; give 0.9999, or 0 for none.",
        )
        first_and_last = self.profile_steps
        _check(
            not first_and_last
            or (len(first_and_last) == 2 and 0 <= first_and_last[0] < first_and_last[1]),
            f"--profile_steps={','.join(map(str, first_and_last))} is no first,last step such as "
            "100,110.",
        )


_LOSS_WEIGHTS = ("cross_entropy_weight", "focal_weight", "dice_weight", "lovasz_weight")


@dataclasses.dataclass(frozen=True)
class CrfConfig:
    """The fully-connected CRF behind the network, in prediction."""

    crf: str = setting(
        "",
        "Fully-connected CRF with the parameters of a paper, v1 or v2, or with those that "
        "deeplab_tf.tune_crf found for this run: tuned. Empty for no CRF.",
    )
    crf_iterations: int | None = setting(None, "Mean-field updates, in place of those.")
    crf_bilateral_weight: float | None = setting(
        None, "Weight of the kernel of position and colour, in place of that."
    )
    crf_bilateral_sigma_xy: float | None = setting(None, "Its deviation in pixels.")
    crf_bilateral_sigma_rgb: float | None = setting(None, "Its deviation in levels 0..255.")
    crf_gaussian_weight: float | None = setting(
        None, "Weight of the kernel of position alone, in place of that."
    )
    crf_gaussian_sigma_xy: float | None = setting(None, "Its deviation in pixels.")

    def __post_init__(self):
        given = [
            name
            for name, value in dataclasses.asdict(self).items()
            if name != "crf" and value is not None
        ]
        _check(
            self.crf or not given,
            f"--{given[0] if given else ''} changes a CRF that --crf does not ask for: give "
            "--crf=v1, --crf=v2 or --crf=tuned too.",
        )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How the network looks at images in prediction; by default once, at their own size."""

    eval_scales: tuple[float, ...] = setting(
        (1.0,),
        "Scales of the image that the probabilities are averaged over; the papers' are "
        "0.5,0.75,1,1.25,1.5,1.75.",
    )
    add_flipped_images: bool = setting(False, "Averages them over the mirrored image too.")
    window_size: tuple[int, ...] = setting(
        (),
        "Height,width of a window that slides over images that do not fit into memory; empty "
        "for the whole image at once.",
    )
    window_overlap: float = setting(
        1 / 3, "Share of a window's sides, at least, that the next window covers again."
    )
    eval_output_stride: int | None = setting(
        None, "Output stride in place of the trained one, with the same weights: 8 for 16."
    )

    def __post_init__(self):
        _check(
            self.eval_scales and min(self.eval_scales) > 0,
            f"--eval_scales={','.join(map(str, self.eval_scales))}; give scales above 0, or 1 for "
            "the image's own size alone.",
        )
        size = self.window_size
        _check(
            not size or (len(size) == 2 and min(size) > 0),
            f"--window_size={','.join(map(str, size))} is no height,width such as 513,513.",
        )
        _check(
            0 <= self.window_overlap < 1,
            f"--window_overlap={self.window_overlap} is no share of a window below 1.",
        )


def _check(holds: object, problem: str) -> None:
    if not holds:
        raise UserError(problem)


NO_CRF = CrfConfig()
WHOLE_IMAGES = EvalConfig()
