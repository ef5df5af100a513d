"""The running process: threads over one pipeline, signals, health pages."""
