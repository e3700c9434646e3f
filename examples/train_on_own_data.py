# %% [markdown]
# # Train on your own data
#
# From a folder of images and labels to a trained model that labels new images. For your own data,
# set `MY_DATA` to your folder, and give the folders `data` and `run` below other names. If there is
# no such folder, this notebook draws images, so that it runs anywhere.

# %%
import os

import cv2

import deeplab_tf
from deeplab_tf import config
from deeplab_tf import train
from deeplab_tf.datasets import build
from deeplab_tf.datasets.shapes import drawing

MY_DATA = "my_data"
NUM_IMAGES = 60
NUM_STEPS = 300

if not os.path.exists(MY_DATA):
    for folder in ("images", "labels"):
        os.makedirs(f"{MY_DATA}/{folder}")
    for index in range(NUM_IMAGES):
        image, label = drawing.draw("notebook", index)
        cv2.imwrite(f"{MY_DATA}/images/{index:03d}.jpg", image[..., ::-1])
        cv2.imwrite(f"{MY_DATA}/labels/{index:03d}.png", label)
    with open(f"{MY_DATA}/classes.txt", "w") as file:
        file.write("\n".join(drawing.CLASS_NAMES))

# %% [markdown]
# ## Build the records
#
# `datasets.build` detects the format of the folder, checks every file, and keeps a fifth of the
# images for validation. The same on the command line:
#
# ```
# python -m deeplab_tf.datasets.build --dataset=folder --manual_dir=my_data --data_dir=data
# ```

# %%
records = build.build("folder", "data", MY_DATA)
print(records.num_examples)

# %% [markdown]
# ## Train
#
# Settings that are not given are chosen from the data and the devices: crop size, batch size,
# learning rate and so on. This training starts from random weights: leave out
# `tf_initial_checkpoint` to start from ImageNet weights. If the training is interrupted, run the
# cell again to resume.

# %%
train.train(
    config.ModelConfig(version="v3plus", backbone="mobilenet_v2"),
    config.DataConfig(data_dir=records.folder),
    config.TrainConfig(training_number_of_steps=NUM_STEPS, tf_initial_checkpoint="none"),
    "run",
)

# %% [markdown]
# ## Label a new image
#
# `predict` takes an array of RGB pixels, or the path of an image file.

# %%
run = deeplab_tf.load_run("run")
image, _ = drawing.draw("new", 0)
labels = run.predict(image)  # uint8 [H, W], class ids
overlay = run.overlay(image, labels)  # uint8 [H, W, 3]
cv2.imwrite("overlay.png", overlay[..., ::-1])
print({run.class_names[index] for index in set(labels.ravel().tolist())})
