"""Quotas, rate limits and budgets: what a call may take now, in one process, in several, and over several machines."""
