"""RD-Agent patched at its seams: the hand-off of a factor set to its model runner."""
