"""The limit of open files. Each pod and each watch has a connection, and so an open file."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)


def raise_file_limit() -> int:
    """Raises the limit to the most that the system allows, and returns it.

    The usual 1,024 would be too few for polling a thousand pods.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays at %d: %s", soft, error)
        return soft
    return hard
