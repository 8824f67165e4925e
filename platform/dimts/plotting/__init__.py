"""Plots and the fonts that they are written in."""
