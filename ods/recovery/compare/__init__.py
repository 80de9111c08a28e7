"""Where registry and server contradict each other, and what the operator can do about it."""
