"""A training run: its options, its folder, and what happens around the training steps."""
