"""Plans shipped with the package."""
