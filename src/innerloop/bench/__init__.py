"""Comparisons that take minutes: learners, and optimizers, beside their rivals."""
