"""Fit machine-learning models to devices.

Every verb of the command line is a function here of the same name; each is imported on first use,
so that `import ondevice` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ondevice.backends.network import NetworkSession, open_network
    from ondevice.devices.budget import Budget
    from ondevice.verbs.advise import Advice, advise
    from ondevice.verbs.bench import BenchResult, bench
    from ondevice.verbs.bench_decoder import DecoderBench, bench_decoder
    from ondevice.verbs.bench_network import NetworkBench, bench_network, explain_network
    from ondevice.verbs.campaign import campaign, report
    from ondevice.verbs.doctor import doctor
    from ondevice.verbs.export import ExportResult, export
    from ondevice.verbs.fit import FitResult, fit
    from ondevice.verbs.open import open, open_language
    from ondevice.verbs.run import RunResult, run, write
    from ondevice.verbs.run_network import run_network
    from ondevice.verbs.seal import seal
    from ondevice.verbs.search import SearchResult, search
    from ondevice.verbs.serve import serve
    from ondevice.verbs.simulate import Simulated, simulate
    from ondevice.verbs.sustained import sustained
    from ondevice.verbs.systems import Proof, prove, systems

__version__ = "0.1.0"

_HOME = {
    "Advice": "ondevice.verbs.advise",
    "BenchResult": "ondevice.verbs.bench",
    "Budget": "ondevice.devices.budget",
    "DecoderBench": "ondevice.verbs.bench_decoder",
    "ExportResult": "ondevice.verbs.export",
    "FitResult": "ondevice.verbs.fit",
    "NetworkBench": "ondevice.verbs.bench_network",
    "NetworkSession": "ondevice.backends.network",
    "Proof": "ondevice.verbs.systems",
    "RunResult": "ondevice.verbs.run",
    "SearchResult": "ondevice.verbs.search",
    "Simulated": "ondevice.verbs.simulate",
    "advise": "ondevice.verbs.advise",
    "bench": "ondevice.verbs.bench",
    "bench_decoder": "ondevice.verbs.bench_decoder",
    "bench_network": "ondevice.verbs.bench_network",
    "campaign": "ondevice.verbs.campaign",
    "doctor": "ondevice.verbs.doctor",
    "explain_network": "ondevice.verbs.bench_network",
    "export": "ondevice.verbs.export",
    "fit": "ondevice.verbs.fit",
    "open": "ondevice.verbs.open",
    "open_language": "ondevice.verbs.open",
    "open_network": "ondevice.backends.network",
    "prove": "ondevice.verbs.systems",
    "report": "ondevice.verbs.campaign",
    "run": "ondevice.verbs.run",
    "run_network": "ondevice.verbs.run_network",
    "search": "ondevice.verbs.search",
    "seal": "ondevice.verbs.seal",
    "serve": "ondevice.verbs.serve",
    "simulate": "ondevice.verbs.simulate",
    "sustained": "ondevice.verbs.sustained",
    "systems": "ondevice.verbs.systems",
    "write": "ondevice.verbs.run",
}

__all__ = [
    "Advice",
    "BenchResult",
    "Budget",
    "DecoderBench",
    "ExportResult",
    "FitResult",
    "NetworkBench",
    "NetworkSession",
    "Proof",
    "RunResult",
    "SearchResult",
    "Simulated",
    "__version__",
    "advise",
    "bench",
    "bench_decoder",
    "bench_network",
    "campaign",
    "doctor",
    "explain_network",
    "export",
    "fit",
    "open",
    "open_language",
    "open_network",
    "prove",
    "report",
    "run",
    "run_network",
    "seal",
    "search",
    "serve",
    "simulate",
    "sustained",
    "systems",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ondevice' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
