"""From batches to trained weights: losses, optimizers, schedules, the step, and the log."""
