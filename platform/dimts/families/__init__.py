"""Model families: each is a folder that brings a model, its data and its metrics."""
