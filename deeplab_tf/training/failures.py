"""The reasons why a training cannot continue, with remedies."""

import contextlib
import math
from collections.abc import Sequence

import tensorflow as tf

from deeplab_tf.data import records
from deeplab_tf.errors import UserError
from deeplab_tf.runs import checkpoint_files
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import batches


def not_finite(
    loss: float, step: int, sources: Sequence[records.Records], run: run_dirs.Run
) -> UserError:
    """Returns the error of a loss, or of gradients, that are not finite.

    Args:
        loss: The mean loss of the last steps.
        step: Number of steps before the first one that was not finite.
        sources: The records that are trained on.
        run: The run.
    """
    saved = checkpoint_files.find(checkpoint_files.folder_of(run.folder, "last"))
    last = (
        f"The last checkpoint, {saved[0]}, is from before."
        if saved
        else "There is no checkpoint from before."
    )
    what = "The gradients are not finite" if math.isfinite(loss) else f"The loss is {loss}"
    return UserError(
        f"{what} from step {step + 1} on, whose images are "
        f"{', '.join(batches.image_names(sources, run, step))}. {last} Likely causes: a learning "
        "rate too high for the batch (lower --base_learning_rate, or give --warmup_steps or "
        "--clip_gradient_norm), batch norm on a small batch (--nofine_tune_batch_norm), or wrong "
        "labels (see python -m deeplab_tf.check_data)."
    )


@contextlib.contextmanager
def readable_shortage(run: run_dirs.Run):
    """Turns TensorFlow's errors about memory into a `UserError` with remedies."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        config, crop = run.train_config, run.data_config.train_crop_size
        ways = [
            f"--gradient_accumulation_steps above {config.gradient_accumulation_steps}",
            f"--train_batch_size below {config.train_batch_size}",
            f"--train_crop_size below {','.join(map(str, crop))}",
            f"--output_stride above {run.model_config.output_stride}",
        ]
        if not config.recompute_activations:
            ways.insert(0, "--recompute_activations")
        if not config.mixed_precision:
            ways.append("--mixed_precision=bfloat16")
        raise UserError(
            f"The memory is too small for this training ({error.message.splitlines()[0]}). Give "
            f"one of: {'; '.join(ways)}. deeplab_tf.describe estimates the peak before a run "
            "starts."
        ) from error
