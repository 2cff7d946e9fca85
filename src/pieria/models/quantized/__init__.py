"""Checkpoints whose matrices are kept in fewer bits: a file here for each way of keeping them."""
