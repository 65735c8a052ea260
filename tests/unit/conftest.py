"""What all unit tests need."""

from __future__ import annotations

from hypothesis import settings

# An example may take any time: on a busy machine, the time says nothing about the code.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
