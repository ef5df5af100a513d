"""The commands of `freshet`, one file each; `infra.cli` imports them by name."""
