"""The data plane: serve, admit, dispatch, relay, settle. Reads a Snapshot; has no database and no web framework."""
