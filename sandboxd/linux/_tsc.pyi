"""What the compiled module offers, for the type checker."""

class _Cell:
    def __getitem__(self, index: int, /) -> int: ...

class _Ffi:
    def new(self, declaration: str, /) -> _Cell: ...

class _Lib:
    def sandboxd_read_clocks(self, ticks: _Cell, raw_ns: _Cell, /) -> int: ...

ffi: _Ffi
lib: _Lib
