"""Draws images like those of the dataset `shapes`, to try `predict` on.

python -m deeplab_tf.datasets.shapes.draw --output_dir=DIR
"""

import dataclasses
import os
import pathlib

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf import files
from deeplab_tf.datasets.shapes import drawing


def draw_images(output_dir: str | os.PathLike, num_images: int) -> list[pathlib.Path]:
    """Draws images to try `predict` on, and returns their paths."""
    folder = files.as_path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shapes_{index:02d}.jpg" for index in range(num_images)]
    for index, path in enumerate(paths):
        image, _ = drawing.draw("unseen", index)
        path.write_bytes(drawing.encode_jpeg(image))
    return paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    output_dir: str = config.output_dir()
    num_images: int = config.num_images(12)


def main(arguments: Arguments) -> None:
    paths = draw_images(**dataclasses.asdict(arguments))
    print(f"{len(paths)} images in {arguments.output_dir}")


if __name__ == "__main__":
    command_line.run(main, starts_tensorflow=False)
