"""What only Linux and macOS have; elsewhere an import of it ends in one line."""

try:
    import fcntl as fcntl
except ModuleNotFoundError:
    raise SystemExit(
        "error: dimts runs on Linux and macOS; on Windows use WSL: docs/troubleshooting.md"
    ) from None
