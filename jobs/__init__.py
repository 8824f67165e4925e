"""What people run: one file a job, thin."""
