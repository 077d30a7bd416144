"""Find kidneys and kidney tumors in CT."""

__version__ = "0.1.0"
