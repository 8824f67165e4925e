"""What people run: one file a command, each with a `main`."""
