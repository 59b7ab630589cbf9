"""What came of the runs."""
