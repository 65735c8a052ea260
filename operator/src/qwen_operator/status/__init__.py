"""Computes the status of a QwenService. Pure."""
