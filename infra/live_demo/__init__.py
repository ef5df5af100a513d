"""The live demo: what it sends and shows, and what it counts at the end."""
