"""Decides which objects must exist for a QwenService, and builds them. Pure."""
