"""Killing a running service and its broker again and again, and holding what is left against the broker's log."""
