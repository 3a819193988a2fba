"""Models: loading, precision, acceleration, and the tree that displays them."""
