"""Lists, downloads and adds released weights.

    python -m deeplab_tf.zoo list
    python -m deeplab_tf.zoo download NAME
    python -m deeplab_tf.zoo add NAME ARCHIVE_OR_FOLDER

A name can be given wherever a checkpoint can: --tf_initial_checkpoint=NAME,
import_checkpoint --checkpoint=NAME, predict --weights=NAME.
"""

import argparse
import sys

from deeplab_tf import zoo
from deeplab_tf.errors import UserError
from deeplab_tf.zoo.entries import DATA_TERMS


def table() -> str:
    """The released weights as a table of text, a line for each name."""
    rows = [("name", "network", "data", "mIoU on val [%]", "MB", "here", "terms of the data")]
    for entry in zoo.ENTRIES.values():
        width = entry.model.get("depth_multiplier", 1.0)
        network = " ".join(
            [str(entry.model.get("version", "")), str(entry.model["backbone"])]
            + ([f"x{width}"] if width != 1.0 else [])
        )
        rows.append(
            (
                entry.name,
                network.strip(),
                entry.data,
                entry.published or "-",
                f"{entry.megabytes:g}" if entry.megabytes else "?",
                "yes" if zoo.is_cached(entry.name) else "",
                DATA_TERMS[entry.data],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "",
            "They were released with the code of DeepLab, TF-Slim and Keras, under Apache-2.0;",
            "those of VGG-16 by its authors, under CC BY 4.0.",
            f"They are kept in {zoo.cache_dir()}; DEEPLAB_TF_CACHE names another folder.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deeplab_tf.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="Print all names, with networks, figures and sizes.")
    download = commands.add_parser("download", help="Download weights into the cache.")
    download.add_argument("name", metavar="NAME", help="Name in the list.")
    add = commands.add_parser("add", help="Add weights that you have fetched by other means.")
    add.add_argument("name", metavar="NAME", help="Name in the list.")
    add.add_argument(
        "path",
        metavar="ARCHIVE_OR_FOLDER",
        help="The archive, a folder of its files, or the .h5 file of Keras.",
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "list":
            print(table())
        elif given.command == "download":
            print(f"{given.name} is in {zoo.download(given.name)}")
        else:
            print(f"{given.name} is in {zoo.add(given.name, given.path)}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
