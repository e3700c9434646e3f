"""The engine that is fastest on this machine, if its labels are those of TensorFlow."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import time

import numpy as np
import tensorflow as tf

from deeplab_tf import crf
from deeplab_tf import files
from deeplab_tf.config import TENSORFLOW
from deeplab_tf.data.json_fields import JsonObject
from deeplab_tf.errors import UserError
from deeplab_tf.evaluation.engines.built import ENGINES
from deeplab_tf.evaluation.engines.built import Source
from deeplab_tf.evaluation.engines.built import load_network
from deeplab_tf.evaluation.network import Network
from deeplab_tf.evaluation.network import as_network

MIN_AGREEMENT = 0.999  # share of the labels that must be equal
MIN_SPEEDUP = 1.1
# TensorFlow runs the network for so long before others are built: short jobs do not pay for that.
SECONDS_BEFORE_TRYING = 20.0
_NUM_IMAGES = 3  # that are compared


@dataclasses.dataclass(frozen=True)
class Choice:
    """An engine, and how it did on the images that were compared.

    Attributes:
        engine: Its name.
        speedup: Time of TensorFlow over its own.
        agreement: Share of the labels that are those of TensorFlow.
    """

    engine: str
    speedup: float = 1.0
    agreement: float = 1.0

    def __str__(self) -> str:
        if self.engine == TENSORFLOW:
            return "engine: tensorflow; no other installed engine is faster here"
        return (
            f"engine: {self.engine}, {self.speedup:.1f} times as fast as tensorflow here; "
            f"{self.agreement:.2%} of the labels compared are equal"
        )


def automatic_network(source: Source) -> Network:
    """Returns a network that is run by TensorFlow at first, and then by the fastest engine.

    Engines count whose labels are those of TensorFlow on the first images. The choice is kept
    beside their files, so that later commands start with it.

    Args:
        source: The network.
    """
    if tf.config.list_physical_devices("GPU"):
        print("engine: tensorflow, on the GPU", flush=True)
        return as_network(source.load())
    installed = {name: engine for name, engine in ENGINES.items() if engine.is_installed}
    if not installed:
        print("engine: tensorflow; no other engine is installed", flush=True)
        return as_network(source.load())
    name = _name_of_choice(source, list(installed))
    path = source.find(name)
    choice = read_choice(path) if path else None
    if choice is None:
        return _start_with_tensorflow(source, name)
    print(choice, flush=True)
    if choice.engine == TENSORFLOW:
        return as_network(source.load())
    return load_network(choice.engine, source)


def read_choice(path: pathlib.Path) -> Choice | None:
    """Reads a choice that was kept; None if it is damaged, and engines are compared again."""
    try:
        fields = JsonObject(files.read_json(path), path.name, "Delete it.")
        choice = Choice(fields.text("engine"), fields.number("speedup"), fields.number("agreement"))
    except UserError:
        return None
    return choice if choice.engine in (TENSORFLOW, *ENGINES) else None


def _start_with_tensorflow(source: Source, name_of_choice: str) -> Network:
    """Runs TensorFlow until it has taken long enough for another engine to pay off."""
    first = as_network(source.load())
    chosen, seconds = first, 0.0
    images: list[tf.Tensor] = []

    def logits_of(image):
        nonlocal chosen, seconds
        if chosen is not first or seconds > SECONDS_BEFORE_TRYING:
            return chosen.logits_of(image)
        started = time.perf_counter()
        logits = chosen.logits_of(image)
        seconds += time.perf_counter() - started
        images.append(image)
        del images[:-_NUM_IMAGES]
        if seconds > SECONDS_BEFORE_TRYING:
            choice, chosen = _choose(source, first, images)
            print(choice, flush=True)
            try:
                source.write(
                    name_of_choice, lambda path: files.write_json(path, dataclasses.asdict(choice))
                )
            except UserError as error:
                print(f"the choice of the engine cannot be saved: {error}", flush=True)
            images.clear()
        return logits

    return Network(logits_of, first.stride)


def _choose(source: Source, reference: Network, images: list) -> tuple[Choice, Network]:
    """Builds every engine that is installed, and compares it with TensorFlow."""
    best = Choice(TENSORFLOW), reference
    print("comparing the engines that are installed ...", flush=True)
    expected = [np.argmax(reference.logits_of(image), axis=-1) for image in images]
    for name, engine in ENGINES.items():
        if not engine.is_installed:
            continue
        try:
            network = load_network(name, source)
            equal = [
                np.argmax(network.logits_of(image), axis=-1) == labels
                for image, labels in zip(images, expected, strict=True)
            ]
        except Exception as error:  # another engine's, of any kind: this one is left out
            print(f"  {name}: left out ({str(error).splitlines()[0][:200]})", flush=True)
            continue
        agreement = float(np.mean(np.concatenate([one.ravel() for one in equal])))
        speedup = _speedup(reference, network, images[-1])
        print(f"  {name}: speed-up {speedup:.2f}, equal labels {agreement:.2%}", flush=True)
        is_better = speedup > max(MIN_SPEEDUP, best[0].speedup)
        if is_better and agreement >= MIN_AGREEMENT:
            best = Choice(name, speedup, agreement), network
    return best


def _speedup(reference: Network, network: Network, image: tf.Tensor, num_rounds: int = 3) -> float:
    """The time of one network over that of another, called in turn."""
    seconds = np.zeros((num_rounds, 2))
    for one_round in seconds:
        for index, each in enumerate((reference, network)):
            started = time.perf_counter()
            np.asarray(each.logits_of(image))
            one_round[index] = time.perf_counter() - started
    of_reference, of_network = np.median(seconds, axis=0)
    return float(of_reference / of_network)


def _name_of_choice(source: Source, installed: list[str]) -> str:
    """The name of the file that a choice is kept in: it holds for this machine and its packages."""
    packages = sorted({name for engine in installed for name in ENGINES[engine].packages})
    versions = [importlib.metadata.version(name) for name in packages]
    holds_for = [
        source.digest,
        tf.__version__,
        *packages,
        *versions,
        platform.node(),
        crf.num_cores(),
    ]
    return f"choice_{hashlib.sha256(json.dumps(holds_for).encode()).hexdigest()[:20]}.json"
