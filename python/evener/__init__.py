"""Evener's Python side: the ASGI server that runs in each worker process.

The program itself, `evener`, is not Python. What an application may want from here are the two
exceptions that `send` raises.
"""

from evener._worker import ClientDisconnected, MessageError

__all__ = ["ClientDisconnected", "MessageError", "__version__"]

__version__ = "0.1.0"
