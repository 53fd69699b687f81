"""Facts of the machine that a figure stands on, and what the host took away while it was measured."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import psutil


class CpuTimes(NamedTuple):
    """Seconds that all cores spent since boot."""

    total: float
    stolen: float
    idle: float

    @classmethod
    def now(cls) -> "CpuTimes":
        values = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
        return cls(sum(values) / tick, values[7] / tick, (values[3] + values[4]) / tick)

    def since(self, earlier: "CpuTimes") -> dict[str, float]:
        """Shares of all core time since `earlier`, in percent."""
        total = max(self.total - earlier.total, 1e-9)
        return {
            "steal_percent": round(100 * (self.stolen - earlier.stolen) / total, 2),
            "idle_percent": round(100 * (self.idle - earlier.idle) / total, 1),
        }


def facts() -> dict[str, str | int | float]:
    """What to print beside every figure."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    versions = {
        package: importlib.metadata.version(package)
        for package in ("grpcio", "uvloop", "asyncpg", "pykka", "hatchet-sdk")
    }
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
