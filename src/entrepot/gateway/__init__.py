"""The data plane: routes, serve, admit, dispatch, relay, settle. Reads a Snapshot; knows no database and no web framework."""
