"""What can go wrong with a server."""

from __future__ import annotations


class ServerUnavailable(Exception):
    """No such server can be had here; the message is the reason. What needs it is *not run*, which is not the same as passed."""
