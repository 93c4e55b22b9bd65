"""Runs pose-engine and its peers side by side. Python's standard library alone."""
