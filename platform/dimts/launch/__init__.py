"""What runs the training loop: this process alone, or Ray Train; and what records it."""
