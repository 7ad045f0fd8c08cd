"""The run folder: what a training run leaves behind, written so that no crash can spoil it."""
