"""Cases to a fingerprint to a plan."""
