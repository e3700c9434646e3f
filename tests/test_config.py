"""Settings that cannot be."""

import pytest

from deeplab_tf import config
from deeplab_tf.errors import UserError


@pytest.mark.parametrize(
    "config_class, settings, complaint",
    [
        (config.DataConfig, {"train_crop_size": (513,)}, "--train_crop_size=513 .*321,321"),
        (config.DataConfig, {"train_crop_size": (0, 65)}, "--train_crop_size=0,65"),
        (config.DataConfig, {"min_scale_factor": 3.0}, "--min_scale_factor=3.0"),
        (config.DataConfig, {"scale_factor_step_size": -0.1}, "--scale_factor_step_size=-0.1"),
        (config.DataConfig, {"max_resize_value": 513}, "--min_resize_value"),
        (config.TrainConfig, {"train_batch_size": 0}, "--train_batch_size=0"),
        (config.TrainConfig, {"eval_every_steps": 0}, "--eval_every_steps=0"),
        (config.TrainConfig, {"training_number_of_steps": -5}, "--training_number_of_steps=-5"),
        (config.TrainConfig, {"dice_weight": -1.0}, "--dice_weight=-1.0"),
        (config.TrainConfig, {"cross_entropy_weight": 0.0}, "no loss.*--lovasz_weight"),
        (config.TrainConfig, {"class_weights": (1.0, -1.0)}, "--class_weights=1.0,-1.0"),
        (config.TrainConfig, {"top_k_percent_pixels": 25.0}, "--top_k_percent_pixels=25.0.* 0.25 "),
        (config.TrainConfig, {"moving_average_decay": 1.0}, "--moving_average_decay=1.0"),
        (config.TrainConfig, {"gradient_accumulation_steps": 3}, "=8 does not divide .*=3 equal"),
        (config.TrainConfig, {"optimizer": "adam"}, "--optimizer=adam; .*adamw"),
        (config.TrainConfig, {"mixed_precision": "float64"}, "bfloat16, float16 or empty"),
        (config.TrainConfig, {"profile_steps": (20, 10)}, "--profile_steps=20,10"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_the_name_of_its_flag(
    config_class, settings, complaint
):
    with pytest.raises(UserError, match=complaint):
        config_class(**settings)
