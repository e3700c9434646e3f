"""Draws images as files that are in no split: python -m deeplab_tf.datasets.shapes.draw ..."""

import os
import pathlib

from absl import flags

from deeplab_tf import command_line
from deeplab_tf.datasets.shapes import drawing


def draw_images(output_dir: str | os.PathLike, num_images: int) -> list[pathlib.Path]:
    """Draws images for `predict` to try itself on, and returns their paths."""
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shapes_{index:02d}.jpg" for index in range(num_images)]
    for index, path in enumerate(paths):
        image, _ = drawing.draw("unseen", index)
        path.write_bytes(drawing.encode_jpeg(image))
    return paths


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("output_dir", None, "Folder for the images (required).", required=True)
    flags.DEFINE_integer("num_images", 12, "How many.", lower_bound=1)


def main(_) -> None:
    paths = draw_images(flags.FLAGS.output_dir, flags.FLAGS.num_images)
    print(f"{len(paths)} images in {flags.FLAGS.output_dir}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
