"""Operators of ONNX that onnx2torch lacks, in torch."""
