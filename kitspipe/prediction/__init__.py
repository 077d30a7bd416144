"""Image to masks."""
