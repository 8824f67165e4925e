"""What every other part stands on: errors, configuration, locks, untrusted files, the machine."""
