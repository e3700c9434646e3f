"""Every flagfile in configs/ is right: parsed, and its model built."""

import dataclasses

import pytest

from conftest import REPOSITORY
from deeplab_tf import build_model
from deeplab_tf import command_line
from deeplab_tf.config import DataConfig
from deeplab_tf.config import ModelConfig
from deeplab_tf.config import TrainConfig
from deeplab_tf.models import complete

FLAGFILES = sorted((REPOSITORY / "configs").glob("*.flagfile"))


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_a_flagfile_parses_and_its_model_builds(path):
    model_config, data_config, _ = command_line.read_flagfile(
        str(path), ModelConfig, DataConfig, TrainConfig
    )
    assert path.stem.endswith(f"{model_config.version}_{model_config.backbone}")
    arguments = dataclasses.asdict(model_config)
    arguments["num_classes"] = arguments["num_classes"] or 2
    height, width = data_config.train_crop_size
    stride = complete(model_config, num_classes=2).output_stride
    # Elsewhere labels and features do not lie on one another at both borders.
    assert height % stride == 1 and width % stride == 1
    assert build_model(**arguments).output_shape == (None, None, None, arguments["num_classes"])


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_a_flagfile_tells_its_paper_its_command_and_what_to_expect(path):
    comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("arXiv", f"--flagfile=configs/{path.name}", "Expected", "mIoU"):
        assert word in comment
