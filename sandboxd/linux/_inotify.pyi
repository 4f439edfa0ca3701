"""What the compiled module offers, for the type checker."""

class _Ffi:
    @property
    def errno(self) -> int: ...

class _Lib:
    IN_NONBLOCK: int
    IN_CLOEXEC: int
    IN_MODIFY: int
    IN_CREATE: int
    IN_DELETE: int
    IN_DELETE_SELF: int
    IN_MOVED_FROM: int
    IN_MOVED_TO: int
    IN_MOVE_SELF: int
    IN_IGNORED: int
    IN_Q_OVERFLOW: int
    IN_ONLYDIR: int
    def inotify_init1(self, flags: int, /) -> int: ...
    def inotify_add_watch(self, fd: int, path: bytes, mask: int, /) -> int: ...
    def inotify_rm_watch(self, fd: int, watch: int, /) -> int: ...

ffi: _Ffi
lib: _Lib
