"""Templates, and the spare databases that are cloned from them in advance."""
