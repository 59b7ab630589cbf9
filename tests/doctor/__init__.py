"""Tests of the room doctor."""
