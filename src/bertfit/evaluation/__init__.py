"""Metrics, intervals and the lexical baseline: numpy, scipy and scikit-learn, never torch."""
