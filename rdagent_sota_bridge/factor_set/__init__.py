"""Which factor set a run means, and one clean copy of it."""
