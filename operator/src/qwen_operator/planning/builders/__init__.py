"""Builders of the children: one file a child, pure, plain dicts out."""
