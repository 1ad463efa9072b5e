"""The pages of the documentation that are made from the package itself, each time it is built."""
