"""Run dirs: what a training leaves behind, its checkpoints, and the devices it runs on."""
