"""Places beyond this machine's folders: object storage, and what lies here of it."""
