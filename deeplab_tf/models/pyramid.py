"""Image pyramids: a network that sees its input at several scales.

Reference: DeepLabv2, arXiv:1606.00915, section 4.1.2.
"""

import keras

from deeplab_tf import layers
from deeplab_tf.models.settings import OutputSettings

_MERGES = {"max": keras.layers.Maximum, "avg": keras.layers.Average}


def merged_logits(one_scale: keras.Model, image, output: OutputSettings):
    """Runs a network on its input at several scales and merges the logits.

    All logits are resized to the size of the largest scale's before they are merged.

    Args:
        one_scale: Network from `[B, H, W, C]` to float32 logits `[B, h, w, num_classes]`.
        image: `[B, H, W, C]`.
        output: The scales and the way of merging.

    Returns:
        float32 logits `[B, h', w', num_classes]`, with the size of the largest scale's.
    """
    outputs = {}
    for scale in output.image_pyramid:
        scaled = image
        if scale != 1:
            scaled = layers.ScaleImage(scale, dtype="float32", name=f"image_at_{scale:g}")(image)
        outputs[scale] = one_scale(scaled)
    largest = outputs[max(outputs)]
    resized = [
        layers.ResizeLike(dtype="float32", name=f"logits_at_{scale:g}")(logits, largest)
        for scale, logits in outputs.items()
    ]
    if len(resized) == 1:
        return resized[0]
    return _MERGES[output.merge_method](dtype="float32", name="merged_logits")(resized)


def with_logits_of_every_scale(model: keras.Model) -> keras.Model:
    """Makes a model with an `image_pyramid` return the logits for a loss at each scale.

    Args:
        model: A model of `deeplab_tf.build_model`.

    Returns:
        A model on the same layers that returns a dict of logits at the size of the input: one for
        each scale, such as `logits_at_0.5`, and `merged_logits`; without a pyramid only the latter.
    """
    image, resize = model.input, layers.ResizeLike(dtype="float32", name="logits_of_scale")
    of_scales = {
        layer.name: resize(layer.output, image)
        for layer in model.layers
        if layer.name.startswith("logits_at_")
    }
    return keras.Model(image, {**of_scales, "merged_logits": model.output})
