"""Types, trees, keyed randomness, functional modules, the task axis, outcomes and errors."""
