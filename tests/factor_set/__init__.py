"""Tests of the room factor_set."""
