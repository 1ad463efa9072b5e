"""Ways in which a task, or adapting to it, is disturbed; the table of them is `measure.perturbations`."""
