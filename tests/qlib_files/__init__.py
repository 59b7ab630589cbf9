"""Tests of the room qlib_files."""
