"""The token by which the operator reads the metrics of a service's pods.

It follows from a key of the operator, and each service has another one. A namespace chooses the
image of its pods, so these get only the hash: a pod that learns the token of its own service learns
nothing about the others.
"""

from __future__ import annotations

import hashlib
import hmac


def metrics_token(key: str, namespace: str, service: str) -> str:
    """The token for the pods of a service. `service` is the name of its Kubernetes Service."""
    return hmac.new(key.encode(), f"{namespace}/{service}".encode(), hashlib.sha256).hexdigest()


def token_hash(token: str) -> str:
    """The hash of a token, as the server reads it."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"
