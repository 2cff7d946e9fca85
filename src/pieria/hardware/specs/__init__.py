"""What machines that may not be here are said to be: a file for each family, sources on all of it.

A family's file has DEVICES by name, ALIASES (another name -> name), and CLUSTERS by name; under a
device's own name stands what it usually comes in. `hardware.catalog` finds them.
"""
