"""gunicorn's way of being told what to do: its settings, its configuration file, its hooks.

Everything here runs in the nursery or in a worker forked from it. What the settings mean for the
listeners, the balancing and the life of workers is left to the program, which is told the values.
"""
