"""Whether a factor set is fit to train on."""
