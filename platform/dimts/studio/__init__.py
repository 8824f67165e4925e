"""Pages in a browser: speak, compare blindly, record, look through a corpus."""
