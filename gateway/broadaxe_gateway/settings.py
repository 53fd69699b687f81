"""Reading settings by name: where each value came from, what it must look like, and every mistake at once.

Pure: knows nothing of the server. `config` says which settings exist.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path

from broadaxe_actors.definitions import duration_us

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


class ConfigError(Exception):
    """One or more settings cannot be used. `problems` has a line for each, naming its variable."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def _hours(us: int) -> str:
    return f"{us // 3_600_000_000}h" if us % 3_600_000_000 == 0 else f"{us / 1e6:g}s"


class SettingReader:
    """Typed reads of named settings. A wrong value is noted in `problems` and read as its default.

    Sources are given weakest first; a name that a source lacks, or holds as empty text, is unset there and does not hide a weaker source.
    """

    def __init__(self, *sources: tuple[str, Mapping[str, str]]) -> None:
        self.problems: list[str] = []
        self._values: dict[str, str] = {}
        self._origins: dict[str, str] = {}
        for origin, values in sources:
            for name, value in values.items():
                if value.strip():
                    self._values[name] = value
                    self._origins[name] = origin

    @property
    def values(self) -> Mapping[str, str]:
        """Every value that is set, after layering."""
        return self._values

    def is_set(self, name: str) -> bool:
        return name in self._values

    def refuse(self, name: str, expected: str, *, is_secret: bool = False) -> None:
        """Note that a setting's value is wrong and what was expected."""
        shown = "" if is_secret or name not in self._values else f"={self._values[name]!r}"
        origin = self._origins.get(name)
        place = f" (from {origin})" if origin and origin != "environment" else ""
        self.problems.append(f"{name}{shown}{place}: {expected}")

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value.strip() if value is not None else None

    def secret(self, name: str) -> str | None:
        """As given: spaces may belong to a password."""
        return self._values.get(name)

    def integer(self, name: str, *, low: int, high: int) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError:
            self.refuse(name, "expected a whole number")
            return None
        if not low <= number <= high:
            self.refuse(name, f"expected a number from {low} to {high}")
            return None
        return number

    def port(self, name: str) -> int | None:
        """A TCP port; 0 lets the system choose a free one."""
        return self.integer(name, low=0, high=65535)

    def number(self, name: str, *, low: float, high: float) -> float | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            self.refuse(name, "expected a number")
            return None
        if not low <= number <= high:
            self.refuse(name, f"expected a number from {low:g} to {high:g}")
            return None
        return number

    def duration(self, name: str, *, low_us: int, high_us: int) -> int | None:
        """Microseconds of a duration such as `720h` or `1h30m`."""
        value = self.text(name)
        if value is None:
            return None
        try:
            found = duration_us(value)
        except ValueError:
            self.refuse(name, "expected a duration such as 720h or 1h30m")
            return None
        if not low_us <= found <= high_us:
            self.refuse(name, f"expected a duration from {_hours(low_us)} to {_hours(high_us)}")
            return None
        return found

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        if value is None:
            return None
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        self.refuse(name, "expected true or false")
        return None

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        if value.lower() not in allowed:
            self.refuse(name, f"expected one of {', '.join(allowed)}")
            return None
        return value.lower()

    def address(self, name: str) -> tuple[str, int] | None:
        """`host:port`, or `:port` for every interface."""
        value = self.text(name)
        if value is None:
            return None
        host, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            self.refuse(name, "expected host:port, such as 127.0.0.1:9090, or :9090 for every interface")
            return None
        return host.strip("[]"), int(port)

    def material(self, name: str) -> bytes | None:
        """Content given as `NAME`, or in the file that `NAME_FILE` points to; never both."""
        file_name = f"{name}_FILE"
        raw, path = self._values.get(name), self.text(file_name)
        if raw is not None and path is not None:
            self.problems.append(f"{name} and {file_name}: both are set, give one of them")
            return None
        if raw is not None:
            return raw.strip().encode()
        if path is None:
            return None
        try:
            return Path(path).expanduser().read_bytes()
        except OSError as error:
            self.refuse(file_name, f"cannot be read: {error.strerror or error}")
            return None

    def pem(self, name: str) -> bytes | None:
        """PEM text, raw or base64 of it, or in a file. The refusal names the variable and never shows the content."""
        content = self.material(name)
        if content is None:
            return None
        if b"-----BEGIN" in content:
            # A variable written on one line carries its line breaks as \n.
            return content.replace(b"\\n", b"\n")
        try:
            decoded = base64.b64decode(content, validate=True)
        except binascii.Error:
            decoded = b""
        if b"-----BEGIN" not in decoded:
            source = f"{name}_FILE" if self.is_set(f"{name}_FILE") else name
            self.refuse(source, "expected PEM text (-----BEGIN ...)", is_secret=source == name)
            return None
        return decoded
