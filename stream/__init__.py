"""What happens when events arrive: sources, the pipeline over the store and the model, sinks."""
