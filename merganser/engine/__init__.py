"""The engine: compiles a plan to a Bytewax dataflow, runs and stops it. The only place that knows Bytewax."""

from merganser.engine.redrive import Redriven, discard, redrive
from merganser.engine.run import Report, rebuild, run

__all__ = ["Redriven", "Report", "discard", "rebuild", "redrive", "run"]
