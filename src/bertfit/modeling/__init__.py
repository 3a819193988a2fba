"""The models: loading, precision, and the tree that shows them."""
