"""Pieria and the other engines for processors, side by side on one machine: see `__main__`."""
