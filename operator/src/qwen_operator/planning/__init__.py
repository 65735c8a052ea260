"""Which objects must exist for a QwenService. Pure."""
