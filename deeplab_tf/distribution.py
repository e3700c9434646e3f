"""The devices that a run trains on."""

import tensorflow as tf

from deeplab_tf.errors import UserError


def get_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy of this name.

    Args:
        name: "one_device": the first GPU, or the CPU. "mirrored": all local GPUs, or all logical
            CPU devices. "auto": mirrored if there is more than one GPU, otherwise one device.

    Returns:
        The strategy. Use one per process: two mirrored ones disturb each other.

    Raises:
        UserError: There is no strategy of this name.
    """
    gpus = tf.config.list_logical_devices("GPU")
    strategies = {
        "one_device": lambda: tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/cpu:0"),
        "mirrored": lambda: tf.distribute.MirroredStrategy(
            [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        ),
    }
    strategies["auto"] = strategies["mirrored" if len(gpus) > 1 else "one_device"]
    if name not in strategies:
        raise UserError(f"--strategy={name!r} is none of {', '.join(sorted(strategies))}.")
    return strategies[name]()
