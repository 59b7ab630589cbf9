"""Whether this machine is fit for a run: facts from the machine, and a line for each. About 480 lines."""
