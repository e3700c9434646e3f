"""A plan on paper: how many images per second accelerators could train on and label.

    python benchmarks/scale.py                                   # v3+ on xception_65 at 513x513
    python benchmarks/scale.py --backbone=mobilenet_v2 --accelerator=tpu_v5e --image_bytes=2300000

From the multiply-adds of `describe` and the published peak of an accelerator follow images per
second; from these, for 1, 8, 64 and 512 accelerators, the CPU cores that prepare images, the bytes
per second from storage and between the machines, and the cost of a million labelled images.

Nothing of this was measured on an accelerator. Every assumption is printed with its origin:
"measured" with the benchmark of this repository that did, "published" with its source, or "chosen".
Each has a flag: put your own number in its place, the `TFLOP/s` of benchmarks/gpu.py first of all.
"""

import argparse
import dataclasses
from collections.abc import Iterator

from deeplab_tf import models
from deeplab_tf.models import description

NUM_CLASSES = 21
COUNTS = (1, 8, 64, 512)
FLOPS_PER_MULTIPLY_ADD = 2
TRAINING_PASSES = 3  # forward, and backward to activations and to weights
BYTES_PER_GRADIENT = 4  # float32, also in mixed precision

MEASURED, PUBLISHED, CHOSEN = "measured", "published", "chosen"


@dataclasses.dataclass(frozen=True)
class Assumption:
    """A number that the plan rests on.

    Attributes:
        value: The number.
        unit: What it counts.
        kind: `MEASURED`, `PUBLISHED` or `CHOSEN`.
        source: Where it comes from.
    """

    value: float
    unit: str
    kind: str
    source: str


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What is published about a GPU or a TPU chip.

    Attributes:
        tflops: Peak of dense bfloat16 matrix products, TFLOP/s.
        price: US dollars per hour, a list price without discount, with its machine.
        source: Of the peak; of the price.
    """

    tflops: float
    price: float
    source: tuple[str, str]


_TPU_PRICE = "Google Cloud's list of TPU prices, us-central1, on demand, 2024"
ACCELERATORS = {
    "a100": Accelerator(
        312,
        4.10,
        ("NVIDIA's A100 datasheet", "AWS p4d.24xlarge in 2024, on demand, an eighth of it"),
    ),
    "h100": Accelerator(
        989,
        12.29,
        ("NVIDIA's H100 SXM datasheet", "AWS p5.48xlarge in 2024, on demand, an eighth of it"),
    ),
    "tpu_v5e": Accelerator(197, 1.20, ("Google Cloud's documentation of TPU v5e", _TPU_PRICE)),
    "tpu_v5p": Accelerator(459, 4.20, ("Google Cloud's documentation of TPU v5p", _TPU_PRICE)),
}
_RESNET_50 = "ResNet-50 v1.5 of NVIDIA's DeepLearningExamples (PyTorch 21.03, mixed precision): "

# Besides the accelerator's. The name of each is the name of its flag.
ASSUMPTIONS = {
    "training_share": Assumption(
        0.20,
        "of the peak",
        PUBLISHED,
        _RESNET_50 + "2470 images/s of 24.6 GFLOP in training on an A100 are 0.195 of its peak",
    ),
    "inference_share": Assumption(
        0.22,
        "of the peak",
        PUBLISHED,
        _RESNET_50 + "3382 images/s of 8.2 GFLOP in inference on a V100 are 0.222 of its peak",
    ),
    "images_per_core": Assumption(
        233,
        "images/s per CPU core",
        MEASURED,
        "benchmarks/input_pipeline.py: 467 images/s on 2 cores, 500x375 JPEG to 513x513 crop",
    ),
    "image_bytes": Assumption(
        156_000,
        "bytes",
        PUBLISHED,
        "COCO: 18 GB of 118287 training images with 640x480 pixels",
    ),
    "label_bytes": Assumption(
        10_000, "bytes", CHOSEN, "a PNG of about 500x375 pixels and 21 classes"
    ),
    "images_per_step": Assumption(
        16, "images per accelerator", CHOSEN, "a step, between two sums of the gradients"
    ),
    "scaling": Assumption(
        0.84,
        "of the speed of one, for 8 and more",
        PUBLISHED,
        _RESNET_50 + "6.72 times the speed on 8 A100",
    ),
}


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a number of accelerators does.

    Attributes:
        count: Number of accelerators.
        training_rate: Images per second in training.
        inference_rate: Images per second in inference.
        training_cores: CPU cores that prepare training batches.
        inference_cores: CPU cores that decode images to be labelled, taken to cost as much.
        training_read: Bytes per second from storage in training, images and labels.
        inference_read: Bytes per second from storage in inference.
        inference_written: Bytes per second to storage in inference.
        gradient_bytes: Bytes per second that each accelerator sends to sum gradients in a ring.
        dollars_per_million: Cost of a million labelled images.
    """

    count: int
    training_rate: float
    inference_rate: float
    training_cores: float
    inference_cores: float
    training_read: float
    inference_read: float
    inference_written: float
    gradient_bytes: float
    dollars_per_million: float


def rates(multiply_adds: int, parameters: int, assumed: dict[str, float], count: int) -> Rates:
    """Returns what a number of accelerators does.

    Args:
        multiply_adds: Of the network, for one image.
        parameters: Trainable weights of the network.
        assumed: A value for each of `all_assumptions`.
        count: Number of accelerators.
    """
    flops = FLOPS_PER_MULTIPLY_ADD * multiply_adds
    peak = assumed["tflops"] * 1e12
    scaling = assumed["scaling"] if count > 1 else 1.0
    of_one = peak * assumed["training_share"] / (TRAINING_PASSES * flops)
    training_rate = count * of_one * scaling
    inference_rate = count * peak * assumed["inference_share"] / flops  # nothing is summed
    steps_per_second = training_rate / count / assumed["images_per_step"]
    ring = 2 * (count - 1) / count  # of the bytes of the gradients, sent by each accelerator
    dollars_per_second = count * assumed["price"] / 3600
    return Rates(
        count,
        training_rate,
        inference_rate,
        training_cores=training_rate / assumed["images_per_core"],
        inference_cores=inference_rate / assumed["images_per_core"],
        training_read=training_rate * (assumed["image_bytes"] + assumed["label_bytes"]),
        inference_read=inference_rate * assumed["image_bytes"],
        inference_written=inference_rate * assumed["label_bytes"],
        gradient_bytes=ring * BYTES_PER_GRADIENT * parameters * steps_per_second,
        dollars_per_million=dollars_per_second / inference_rate * 1e6,
    )


def table(planned: list[Rates]) -> Iterator[str]:
    """Yields the lines of a Markdown table."""
    lines = {
        "images/s in training": [f"{rate.training_rate:,.0f}" for rate in planned],
        "images/s in inference": [f"{rate.inference_rate:,.0f}" for rate in planned],
        "CPU cores for training batches": [f"{rate.training_cores:,.1f}" for rate in planned],
        "CPU cores for inference": [f"{rate.inference_cores:,.1f}" for rate in planned],
        "read in training, MB/s": [_mega(rate.training_read) for rate in planned],
        "read in inference, MB/s": [_mega(rate.inference_read) for rate in planned],
        "written in inference, MB/s": [_mega(rate.inference_written) for rate in planned],
        "gradients sent by each, MB/s": [_mega(rate.gradient_bytes) for rate in planned],
        "$ per million labelled images": [f"{rate.dollars_per_million:.2f}" for rate in planned],
    }
    yield _line("accelerators", *(str(rate.count) for rate in planned))
    yield _line(*["---"] * (1 + len(planned)))
    for name, cells in lines.items():
        yield _line(name, *cells)


def all_assumptions(accelerator: Accelerator) -> dict[str, Assumption]:
    """Returns the assumptions of a plan with an accelerator."""
    peak, price = accelerator.source
    return {
        "tflops": Assumption(accelerator.tflops, "TFLOP/s, bfloat16", PUBLISHED, peak),
        "price": Assumption(accelerator.price, "$ per hour of one", PUBLISHED, price),
        **ASSUMPTIONS,
    }


def assumptions_table(listed: dict[str, Assumption], given: dict[str, float]) -> Iterator[str]:
    """Yields the lines of a Markdown table of assumptions and the values that were taken."""
    yield _line("assumption", "value", "", "origin")
    yield _line(*["---"] * 4)
    for name, one in listed.items():
        is_default = given[name] == one.value
        origin = f"{one.kind}: {one.source}" if is_default else "given by a flag"
        yield _line(name, f"{given[name]:,g}", one.unit, origin)


def _mega(number: float) -> str:
    return f"{number / 1e6:,.1f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--version", default="v3plus", choices=sorted(models.VERSIONS))
    parser.add_argument("--backbone", default="xception_65")
    parser.add_argument("--size", type=int, default=513, help="height and width of images")
    parser.add_argument("--accelerator", default="a100", choices=ACCELERATORS)
    for name, one in all_assumptions(ACCELERATORS["a100"]).items():
        parser.add_argument(f"--{name}", type=float, help=one.unit)
    arguments = parser.parse_args()
    listed = all_assumptions(ACCELERATORS[arguments.accelerator])
    flags = {name: getattr(arguments, name) for name in listed}
    assumed = {
        name: one.value if flags[name] is None else flags[name] for name, one in listed.items()
    }
    model = models.build_model(arguments.version, arguments.backbone, NUM_CLASSES)
    total = description.describe(model, (arguments.size, arguments.size), batch_size=1).total
    print(
        f"{arguments.version} on {arguments.backbone}, {arguments.size}x{arguments.size}: "
        f"{total.computed_multiply_adds / 1e9:.1f} B multiply-adds, "
        f"{total.parameters / 1e6:.1f} M parameters. On paper, not measured:\n"
    )
    planned = [
        rates(total.computed_multiply_adds, total.parameters, assumed, count) for count in COUNTS
    ]
    print("\n".join(table(planned)), end="\n\n")
    print("\n".join(assumptions_table(listed, assumed)))


if __name__ == "__main__":
    main()
