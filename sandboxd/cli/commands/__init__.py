"""One file per family of commands; loaded when one of them is called."""
