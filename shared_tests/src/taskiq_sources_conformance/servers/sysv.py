"""System V shared memory: a server that is killed leaves a segment behind, in the kernel, where no directory's end removes it."""

from __future__ import annotations

import ctypes
import logging
import os

logger = logging.getLogger(__name__)

_IPC_RMID = 0


def remove_shared_memory(identifier: int) -> None:
    """Remove a segment by its id, if it is still there."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.shmctl(identifier, _IPC_RMID, None) != 0:
        logger.debug("shared memory segment %d: %s", identifier, os.strerror(ctypes.get_errno()))
