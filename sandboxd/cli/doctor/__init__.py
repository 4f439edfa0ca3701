"""`sandboxctl doctor`: checks as data and small functions, one file per subject."""
