"""Masks to numbers, choices and pages."""
