"""A former path of metrics, for scripts that use it."""
