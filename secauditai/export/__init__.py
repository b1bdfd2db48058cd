"""ONNX: writing it, checking it, publishing it."""
