"""Alembic's migrations: how the tables of one version become those of the next. Frozen once released."""
