"""Baselines that count: fixed definitions every model is compared with."""
