"""Builders of the children, one file each. Pure: they return plain dicts."""
