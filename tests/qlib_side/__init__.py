"""Tests of the room qlib_side."""
