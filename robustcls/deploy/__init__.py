"""Export of artefacts: models in one ONNX file that run without PyTorch and are checked against their source."""
