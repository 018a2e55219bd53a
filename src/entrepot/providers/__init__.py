"""Upstream adapters: how one operation is asked of an upstream, and what its refusals mean. No I/O."""
