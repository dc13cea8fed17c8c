"""Recordings of what upstream repositories compute, and the scripts that make them."""
