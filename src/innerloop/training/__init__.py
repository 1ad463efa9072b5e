"""The outer loop: configuration, steps, checkpoints, and the run folder."""
