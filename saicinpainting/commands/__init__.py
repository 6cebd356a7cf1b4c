"""The commands: `lama-NAME`, or `bin/NAME.py` from a checkout; each is the `main` of its module."""
