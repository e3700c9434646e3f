"""The names of files in an export."""

LABELS = "labels.txt"  # class names, one a line
PALETTE = "palette.json"  # colours by class id; ignore label
SAVED_MODEL = "saved_model.pb"  # the graph of a SavedModel
PARITY = "parity.json"  # the figures of the comparison with the Keras model
