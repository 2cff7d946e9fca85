"""How ops are computed fast: one folder per backend, one file per op.

Each folder's `__init__.py` names the torch `DEVICES` that the backend runs on.
"""
