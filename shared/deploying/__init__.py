"""Static graphs, their engines, ONNX, and measuring speed and memory."""
