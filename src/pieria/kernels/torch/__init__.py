"""Compositions of torch's own fused operators; they run on every torch device and need no build."""

DEVICES = ("cpu", "cuda", "musa")
