"""The interpreter: executes any module of the dialect. It is what every backend and every pass is held to."""

from qcc.interpreter.interpreter import Interpreter, Observer

__all__ = ["Interpreter", "Observer"]
