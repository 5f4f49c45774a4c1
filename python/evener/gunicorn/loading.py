"""The application that gunicorn's command line names: `module:attribute`, where the attribute is
`application` unless given, and may be a call with literal arguments: `main:create_app("test")`.
"""

from __future__ import annotations

import ast

from evener.application import Application, CannotStart, load


def load_target(target: str, folder: str) -> Application:
    """Imports it, and calls it if it is written as a call."""
    module, _, expression = target.partition(":")
    expression = expression or "application"
    try:
        node = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise CannotStart(f"'{target}': '{expression}' is neither a name nor a call") from None
    if isinstance(node, ast.Name | ast.Attribute):
        return load(f"{module}:{expression}", app_dir=folder, factory=False)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise CannotStart(f"'{target}': '{expression}' is neither a name nor a call")
    try:
        positional = [ast.literal_eval(argument) for argument in node.args]
        named = {word.arg or "": ast.literal_eval(word.value) for word in node.keywords}
    except ValueError:
        raise CannotStart(f"'{target}': the arguments of the call must be literals") from None
    name = node.func.id
    return load(f"{module}:{name}", app_dir=folder, factory=True, arguments=(positional, named))
