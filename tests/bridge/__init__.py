"""Tests of the room bridge."""
