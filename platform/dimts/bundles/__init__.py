"""Bundles: a trained model as a folder that nothing else is needed to load."""
