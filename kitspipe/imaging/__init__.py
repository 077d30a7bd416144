"""Volumes in patient space."""
