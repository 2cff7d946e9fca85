"""How ops are computed fast: one folder per backend, one file per op, each naming its torch `DEVICES`."""
