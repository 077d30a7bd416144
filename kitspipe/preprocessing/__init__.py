"""Cases and a plan to arrays."""
