"""A folder of scans to cases."""
