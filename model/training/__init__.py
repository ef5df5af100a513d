"""The parts of the trainer: windows of histories, batches, the loop, validation."""
