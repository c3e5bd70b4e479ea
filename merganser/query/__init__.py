"""Reading a store while a flow runs on it: ``connection`` asks, ``server`` answers. docs/query.md has the interface."""
