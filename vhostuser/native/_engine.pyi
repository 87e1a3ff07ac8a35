"""What cffi generates: untyped, because the public header is the declaration."""

from typing import Any

ffi: Any
lib: Any
