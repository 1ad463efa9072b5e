"""From records of a run to a verdict and findings: plain data in, plain data out; never imports torch."""
