"""What Qlib is given, and what it wrote about a training."""
