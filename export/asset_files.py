"""The names of files in an export: those of its classes, and of its parity figures."""

LABELS = "labels.txt"  # class names, one a line
PALETTE = "palette.json"  # colours by class id; ignore label
PARITY = "parity.json"  # the figures of the comparison with the Keras model
