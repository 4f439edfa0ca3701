"""Where a process's input comes from and where its output goes, as callers name it in Create, Exec and Attach."""

from sandboxd.shim.stdio.door import StdioRequest, open_attached, open_stdio

__all__ = ["StdioRequest", "open_attached", "open_stdio"]
