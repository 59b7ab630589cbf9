"""Tests of the room sharing."""
