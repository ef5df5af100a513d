"""Killing a replay again and again, and holding what is left against a run that was left alone."""
