"""The nouns that operators declare, typed, with ids and validation. Knows nothing of policy or the wire."""
