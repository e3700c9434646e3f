"""Fine-tuning a trained run for 8 bits."""

import numpy as np
import pytest

from conftest import PLAIN_TRAINING
from conftest import TINY_MODEL
from deeplab_tf import config
from deeplab_tf import layers
from deeplab_tf.errors import UserError
from deeplab_tf.runs import run_dir as run_dirs
from deeplab_tf.training import loop

pytestmark = pytest.mark.usefixtures("short_network")


def fine_tune(source: str, data_dir: str, run_dir: str, steps: int) -> None:
    settings = PLAIN_TRAINING | {
        "training_number_of_steps": steps,
        "train_batch_size": 2,
        "tf_initial_checkpoint": source,
        "quantize_delay_step": 1,
    }
    data_config = config.DataConfig(data_dir=data_dir, train_crop_size=(65, 65), val_split="")
    loop.train(TINY_MODEL, data_config, config.TrainConfig(**settings), run_dir)


def by_name(model) -> dict[str, np.ndarray]:
    return {layers.official_name(weight): weight.numpy() for weight in model.weights}


def test_a_trained_run_is_fine_tuned_for_8_bits_and_resumes(
    tiny_run_dir, tiny_records, tmp_path, capsys
):
    run_dir = str(tmp_path / "run")
    fine_tune(tiny_run_dir, tiny_records.folder, run_dir, steps=1)
    before = by_name(run_dirs.load_model(run_dirs.read(tiny_run_dir)))
    after = by_name(run_dirs.load_model(run_dirs.read(run_dir), "last"))
    ranges = {name: value for name, value in after.items() if layers.is_range(name)}
    assert len(ranges) > 20 and set(after) - set(ranges) == set(before)
    assert all(low <= 0 <= high and low < high for low, high in ranges.values())
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert any(name.endswith("/weights") for name in changed)
    assert not any("moving_" in name for name in changed)  # batch norm is frozen

    fine_tune(tiny_run_dir, tiny_records.folder, run_dir, steps=2)
    assert "resumes from step 1" in capsys.readouterr().out
    resumed = by_name(run_dirs.load_model(run_dirs.read(run_dir), "last"))
    # A moving average of few batches: a run that forgot the limits would have those of the last.
    name = next(iter(ranges))
    np.testing.assert_allclose(resumed[name], ranges[name], rtol=0.1)


@pytest.mark.parametrize("source", ["imagenet", "none", ""])
def test_there_has_to_be_a_trained_model(source):
    with pytest.raises(UserError, match="--quantize_delay_step=0 fine-tunes a trained model"):
        config.TrainConfig(quantize_delay_step=0, tf_initial_checkpoint=source)
    assert not config.TrainConfig(tf_initial_checkpoint=source).is_quantized
