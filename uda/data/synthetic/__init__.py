"""Images made by the package itself, for tests and demos."""
