"""Artefacts: models in one ONNX file that run without PyTorch, checked against their source."""
