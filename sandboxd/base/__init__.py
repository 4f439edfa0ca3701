"""Pure values: errors, ids, units, clock. Imports nothing of sandboxd."""
