# %% [markdown]
# # Released weights and the CRF
#
# Label a photo with the weights that DeepLab's authors released, and refine the labels with the
# fully-connected CRF. The weights are downloaded once (8 MB); `WEIGHTS` may be any name that
# `python -m deeplab_tf.zoo list` prints, a run dir, or an address `hf://USER/REPO`.

# %%
import os

import cv2
import numpy as np

import deeplab_tf
from deeplab_tf.datasets.shapes import drawing

WEIGHTS = "mobilenetv2_dm05_coco_voc_trainaug"
PHOTO = "photo.jpg"
if not os.path.exists(PHOTO):  # without a photo, a drawn image
    cv2.imwrite(PHOTO, drawing.draw("notebook", 0)[0][..., ::-1])

# %% [markdown]
# ## Label the photo

# %%
run = deeplab_tf.load_run(WEIGHTS)
image = cv2.imread(PHOTO)[..., ::-1]  # uint8 [H, W, 3], RGB
labels = run.predict(image)  # uint8 [H, W], class ids
cv2.imwrite("labels.png", run.overlay(image, labels)[..., ::-1])

# %% [markdown]
# ## Refine the labels
#
# The CRF needs probabilities. `unary_from_labels` computes them from a label map: each pixel has
# its label with the given certainty. The probabilities of the network are better, because they
# show where the network is unsure. `python -m deeplab_tf.predict --crf=v1` uses them.

# %%
probabilities = deeplab_tf.unary_from_labels(labels, len(run.class_names), certainty=0.7)
refined = deeplab_tf.dense_crf(np.ascontiguousarray(image), probabilities).argmax(axis=-1)
cv2.imwrite("refined.png", run.overlay(image, refined.astype(np.uint8))[..., ::-1])
print(f"{np.mean(refined != labels):.1%} of the labels have changed")
