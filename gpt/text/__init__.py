"""The text to train on: where it comes from, its tokens, batches of them, and the losses to compare a model with."""
