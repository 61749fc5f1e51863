"""BERT-family encoders on MLX: Apple silicon through Metal, Linux through MLX's processor backend.

`load(folder)` runs a Hugging Face checkpoint as it is; `open_artifact` what an artifact holds.
"""

from __future__ import annotations

from ondevice.errors import MissingExtra

try:
    import mlx.core  # noqa: F401
except ImportError as error:
    raise MissingExtra("mlx", "mlx", "to run a model on MLX") from error

from ondevice.backends.mlx.artifact import open_artifact
from ondevice.backends.mlx.session import MlxSession, load

__all__ = ["MlxSession", "load", "open_artifact"]
