"""Metrics and log lines. Knows nothing of calls: names and labels come from whoever counts."""
