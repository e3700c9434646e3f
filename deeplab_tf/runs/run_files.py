"""The names of all files in a run dir."""

FLAGS = "flags.txt"  # the run's configs, as a flagfile
DATASET = "dataset.json"  # class names, colours and ignore label of what it was trained on
CHECKPOINTS = "checkpoints"  # folder of the last states of the training, to resume from
BEST = "best"  # folder of the weights with the highest validation mIoU
TENSORBOARD = "tensorboard"  # folder of curves and images
TRAINING_LOG = "metrics.jsonl"  # the same figures, a line for each event
METRICS = "metrics.json"  # the figures of the last evaluation
IMAGES = "images.jsonl"  # the figures of each image of that evaluation
EVALUATION = "evaluation"  # folder of what a running evaluation has counted so far
OLD_IMAGES = "pictures.jsonl"  # the same, as version 0.1 named it
CRF = "crf.json"  # the CRF parameters that `deeplab_tf.tune_crf` found
# Keras' own names for a model as a folder. A published run has these in place of checkpoints.
KERAS_CONFIG = "config.json"
KERAS_METADATA = "metadata.json"
KERAS_WEIGHTS = "model.weights.h5"
ENGINES = "engines"  # folder of the files that other engines than TensorFlow run
LOCK = "lock"  # held by the process that trains
