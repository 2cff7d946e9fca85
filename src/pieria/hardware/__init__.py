VIRTUAL = "virtual:"
"""What stands before the name of a device that is not there."""
