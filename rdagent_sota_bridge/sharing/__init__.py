"""Factor sets behind URLs: fetched, and pushed there."""
