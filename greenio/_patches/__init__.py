"""The patches: one file a module of the standard library, each with one table of what it replaces."""
