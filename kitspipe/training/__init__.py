"""Arrays to weights."""
