"""`python -m sandboxd.shim`."""

from sandboxd.shim.main import main

main()
