"""Tests of the worker alone, over its unix socket: no edge, no supervisor."""
