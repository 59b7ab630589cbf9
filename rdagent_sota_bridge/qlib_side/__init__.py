"""Code that runs in Qlib's environment, where this package is not installed: stdlib and Qlib, Python 3.8."""
