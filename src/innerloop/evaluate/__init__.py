"""Evaluation: fixed episodes in, per-task records and honest intervals out."""
