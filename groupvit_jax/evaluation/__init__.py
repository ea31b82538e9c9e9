"""The zero-shot engine, protocols, metrics and diagnosis; sees no model."""
