"""Checks images and labels before a training.

    python -m deeplab_tf.check_data --data_dir=RECORDS
    python -m deeplab_tf.check_data --data=FOLDER_OF_IMAGES_AND_LABELS
    python -m deeplab_tf.check_data --images=DIR --labels=DIR --classes=FILE

The second form reads a folder as `datasets.build --dataset=folder` does.

Reads every file to its end. Prints counts per class, sizes, class weights, a crop size, and every
problem with a way to fix it. Writes the same to OUTPUT_DIR/report.json, and some images with their
labels, those with problems first, to OUTPUT_DIR/contact_sheet.jpg. The exit code is 0 if the data
can be used for training, perhaps with warnings, and 1 if it cannot.
"""

import dataclasses
import sys

from deeplab_tf import command_line
from deeplab_tf import config
from deeplab_tf.config import OwnDataConfig
from deeplab_tf.errors import UserError
from deeplab_tf.settings import setting

check_records = command_line.lazy_function("deeplab_tf.data_report.check", "check_records")
check_folders = command_line.lazy_function("deeplab_tf.data_report.check", "check_folders")
check_own_data = command_line.lazy_function("deeplab_tf.data_report.check", "check_own_data")
write_report = command_line.lazy_function("deeplab_tf.data_report.check", "write_report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(config.Config):
    """The flags of this command alone."""

    data_dir: str = config.data_dir()
    dataset: str = config.dataset()
    data: str = setting(
        "",
        "Folder of images and labels from any annotation tool, to check in place of records.",
        is_path=True,
        is_common=True,
    )
    images: str = setting(
        "", "Folder of images to check in place of records.", is_path=True, is_common=True
    )
    labels: str = setting(
        "",
        "Folder of the labels of --images, which have the same file names.",
        is_path=True,
        is_common=True,
    )
    num_classes: int | None = config.num_classes("that of the records, or of --classes")
    ignore_label: int | None = config.ignore_label("that of the records, or 255")
    output_dir: str = config.output_dir("data_check")


def main(arguments: Arguments, own_data_config: OwnDataConfig) -> None:
    from deeplab_tf.data import own_data
    from deeplab_tf.data_report import check

    options = own_data.OwnDataOptions.of(own_data_config)
    sources = [arguments.data_dir, arguments.data, arguments.images or arguments.labels]
    if len(list(filter(None, sources))) != 1:
        raise UserError("give --data_dir=RECORDS, --data=FOLDER, or --images=DIR and --labels=DIR")
    classes = {"num_classes": arguments.num_classes, "ignore_label": arguments.ignore_label}
    if arguments.data:
        report = check.check_own_data(arguments.data, options, check.progress_line())
    elif arguments.data_dir:
        report = check.check_records(
            arguments.data_dir,
            dataset=arguments.dataset,
            **classes,
            max_pixels=options.max_pixels,
            progress=check.progress_line(),
        )
    else:
        report = check.check_folders(
            arguments.images,
            arguments.labels,
            **classes,
            options=options,
            progress=check.progress_line(),
        )
    print(report.to_text())
    print("written to " + ", ".join(check.write_report(report, arguments.output_dir)))
    if arguments.data and report.is_fit_to_train:
        build = command_line.shell_command(
            "deeplab_tf.datasets.build",
            own_data_config,
            dataset="folder",
            manual_dir=arguments.data,
            data_dir="RECORDS_DIR",
        )
        print(f"Next: {build}")
    sys.exit(0 if report.is_fit_to_train else 1)


if __name__ == "__main__":
    command_line.run(main)
