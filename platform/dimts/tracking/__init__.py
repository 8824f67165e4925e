"""The record of every run: MLflow, TensorBoard, plots. Nothing here can stop a training."""
