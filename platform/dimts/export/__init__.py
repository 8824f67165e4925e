"""A trained voice as ONNX graphs and data that speak without torch."""
