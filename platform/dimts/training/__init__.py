"""The training loop and what it is made of: batches, optimizer, checkpoints. Plain torch."""
