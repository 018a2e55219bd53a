"""Entrepot: a self-hosted, multi-tenant model service."""

__version__ = "0.1.0"
