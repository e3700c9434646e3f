"""From a trained model to figures: predictions at the image's own size, metrics, and the report."""
