"""Brings a registry in step with the server after one of both, or both, were restored to an earlier state."""
