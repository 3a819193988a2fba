"""Plots, tables and texts for people; does not import torch."""
