"""Metrics, intervals and lexical baselines, with numpy, scipy and scikit-learn, without torch."""
