"""From a pin to a patched tree: source, series, apply, check, export."""
