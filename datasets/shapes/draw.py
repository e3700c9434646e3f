"""Draws pictures as files that are in no split: python -m deeplab_tf.datasets.shapes.draw ..."""

import os
import pathlib

from absl import flags

from deeplab_tf import command_line
from deeplab_tf.datasets.shapes import drawing


def draw_pictures(output_dir: str | os.PathLike, num_pictures: int) -> list[pathlib.Path]:
    """Draws pictures for `predict` to try itself on, and returns their paths."""
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shapes_{index:02d}.jpg" for index in range(num_pictures)]
    for index, path in enumerate(paths):
        image, _ = drawing.draw("unseen", index)
        path.write_bytes(drawing.encode_jpeg(image))
    return paths


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("output_dir", None, "Folder for the pictures (required).", required=True)
    flags.DEFINE_integer("num_pictures", 12, "How many.", lower_bound=1)


def main(_) -> None:
    paths = draw_pictures(flags.FLAGS.output_dir, flags.FLAGS.num_pictures)
    print(f"{len(paths)} pictures in {flags.FLAGS.output_dir}")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
