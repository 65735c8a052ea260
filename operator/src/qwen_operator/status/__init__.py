"""What the status of a QwenService says. Pure."""
