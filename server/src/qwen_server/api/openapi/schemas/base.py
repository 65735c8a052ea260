"""The two kinds of models: bodies that are described to the last field, and bodies that may hold
more.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Exact(BaseModel):
    """A body with these fields and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Open(BaseModel):
    """A body that may have other fields too: those of OpenAI's and vLLM's APIs that are not listed
    here.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
