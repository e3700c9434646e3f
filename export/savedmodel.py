"""Exports a run as a SavedModel that takes pictures and returns labels.

    python -m deeplab_tf.export.savedmodel --run_dir=DIR --output_dir=DIR

The export is proved before it appears under its name: it is loaded back and compared with the
Keras model (assets/parity.json tells the figures).
"""

import os
import tempfile

import tensorflow as tf
from absl import flags

from deeplab_tf import command_line
from deeplab_tf import layers
from deeplab_tf import run_dir as run_dirs
from deeplab_tf.config import NO_CRF
from deeplab_tf.config import CrfConfig
from deeplab_tf.errors import UserError
from deeplab_tf.export import parity
from deeplab_tf.export import serving

# All that an export consists of; a folder with anything else in it is not ours to replace.
EXPORT_ENTRIES = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}


def export_savedmodel(
    run_dir: str, output_dir: str, checkpoint: str = "best", crf_config: CrfConfig = NO_CRF
) -> list[parity.Parity]:
    """Writes a run's model as a SavedModel, with labels, palette and parity figures as assets.

    Args:
        run_dir: Folder of a trained or imported run.
        output_dir: The folder that will hold saved_model.pb. An export that is there already is
            replaced once the new one is complete and proved.
        checkpoint: "best" or "last".
        crf_config: The fully-connected CRF that the export carries; by default none.

    Returns:
        How close the export is to the Keras model.

    Raises:
        UserError: The run or the folder cannot be used, or the export does not compute what the
            Keras model does.
    """
    output_dir = os.path.realpath(output_dir)
    _check_replaceable(output_dir)
    run = run_dirs.read(run_dir)
    crf_parameters = run_dirs.crf_parameters(run_dir, crf_config)
    model = run_dirs.load_model(run, checkpoint)
    parent = os.path.dirname(output_dir)
    try:
        os.makedirs(parent, exist_ok=True)
        # Beside the final place, since a rename is only atomic within one file system.
        workspace = tempfile.TemporaryDirectory(dir=parent, prefix=".new_export_")
    except OSError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}.") from error
    with workspace as folder:
        draft = os.path.join(folder, "export")
        module = serving.ServingModule(model, run, folder, crf_parameters)
        with layers.portable_graphs():  # the server may be another machine than this one
            tf.saved_model.save(
                module, draft, signatures={"serving_default": module.serving_default}
            )
        results = parity.compare_with_keras(draft, model, run, crf_parameters)
        parity.write_report(os.path.join(draft, "assets", "parity.json"), results)
        if os.path.exists(output_dir):
            os.rename(output_dir, os.path.join(folder, "replaced"))
        os.rename(draft, output_dir)
    return results


def _check_replaceable(output_dir: str) -> None:
    """Lets through what does not exist, an empty folder, and an earlier export.

    Raises:
        UserError: It is anything else.
    """
    if not os.path.exists(output_dir):
        return
    if not os.path.isdir(output_dir):
        raise UserError(f"--output_dir={output_dir} is a file: give a folder.")
    entries = set(os.listdir(output_dir))
    strange = sorted(entries - EXPORT_ENTRIES)
    if strange or (entries and "saved_model.pb" not in entries):
        raise UserError(
            f"--output_dir={output_dir} holds something else than an export "
            f"({', '.join((strange or sorted(entries))[:3])}), which would be lost: give a new or "
            "empty folder."
        )


def main(_):
    output_dir = flags.FLAGS.output_dir
    results = export_savedmodel(
        flags.FLAGS.run_dir,
        output_dir,
        flags.FLAGS.checkpoint,
        command_line.read_flags(CrfConfig),
    )
    agreement = min(result.label_agreement for result in results)
    print(
        f"{output_dir}: proved against the Keras model, {agreement:.2%} of the labels agree "
        "(assets/parity.json)"
    )


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Folder of the run (required).", required=True)
    flags.DEFINE_string("output_dir", None, "Folder to write (required).", required=True)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which weights of the run.")
    command_line.define_flags(CrfConfig)
    command_line.run(main)
