"""The outside of freshet: settings, wiring, the command line and the reports."""
