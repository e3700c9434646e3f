"""Labels an image with a `.tflite` file, without TensorFlow.

    pip install ai-edge-litert numpy pillow
    python label_image.py model.tflite photo.jpg labels.png

`python -m deeplab_tf.export.tflite --run_dir=RUN --output=model.tflite` makes the file.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from PIL import ImageOps

PAD_PIXEL = 127.5  # the mean pixel of most backbones


def label_image(interpreter: Interpreter, image: Image.Image) -> np.ndarray:
    """Returns the class id of every pixel, at the size that the network sees the image at."""
    takes, returns = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    _, height, width, _ = takes["shape"]
    # Shrunk to fit, never stretched or enlarged; the padding lies at the bottom and right.
    image = ImageOps.exif_transpose(image).convert("RGB")
    scale = min(height / image.height, width / image.width, 1)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    pixels = np.full([1, height, width, 3], PAD_PIXEL, np.float32)
    pixels[0, : image.height, : image.width] = image
    if takes["dtype"] == np.uint8:  # a file in int8
        pixels = np.round(pixels).astype(np.uint8)
    interpreter.set_tensor(takes["index"], pixels)
    interpreter.invoke()
    labels = interpreter.get_tensor(returns["index"])[0]
    return labels[: image.height, : image.width]


def main(model: str, image: str, output: str) -> None:
    interpreter = Interpreter(model)
    interpreter.allocate_tensors()
    labels = label_image(interpreter, Image.open(image))
    Image.fromarray(labels.astype(np.uint8)).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
