"""Plots and texts for people; never imports torch."""
