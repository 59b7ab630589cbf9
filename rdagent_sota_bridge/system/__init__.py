"""Files, the cache of what was found out, and child processes."""
