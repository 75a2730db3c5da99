"""What `jaxvision train --help` prints of the options: names, defaults and their comments."""

import ast
import io
import re
import shlex
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

NAME_SHARE = 0.45  # of a line; the comments of longer names begin on the next one


def options_help(config: ConfigDict, source: str, *, width: int) -> str:
    """Returns every option with its value, as it can be typed, and its comment.

    Args:
      config: Config whose values are shown.
      source: Python source of the schema, whose comments explain the options.
      width: Number of columns of a line.
    """
    lines, before = [], ""
    for name, comment in option_comments(source).items():
        value: Any = config
        for part in name.split("."):
            value = value[part]
        rows = [(name, value)]
        if isinstance(value, ConfigDict):  # not in the schema are further fields of the model
            rows += [(f"{name}.{key}", x) for key, x in value.items() if name == "model.kwargs"]
        if "." not in name and (isinstance(value, ConfigDict) or "." in before):
            lines.append("")
        before = name
        for name, value in rows:
            typed = ".*" if isinstance(value, ConfigDict) else f"={shlex.quote(str(value))}"
            lines += _entry(f"--config.{name}{typed}", comment if name == before else "", width)
    return "\n".join(lines)


def entries(rows: dict[str, str], *, width: int) -> str:
    """Returns names with what they mean beside them.

    Args:
      rows: Meanings by name.
      width: Number of columns of a line.
    """
    return "\n".join(line for row in rows.items() for line in _entry(*row, width))


def option_comments(source: str) -> dict[str, str]:
    """Returns the comment of every option and group, by dotted name such as `optimizer.b1`.

    A comment stands behind the assignment, or in the lines above it.

    Args:
      source: Python source of the schema: a module with a function `get_config`, whose variable
        `config` gets the options.
    """
    above, lines = {}, source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            above[token.start[0]] = token.string.lstrip("# ")
    functions = {x.name: x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef)}
    comments = {}
    for statement in functions["get_config"].body:
        first = statement.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        last = statement.end_lineno or statement.lineno
        comment = " ".join(above[i] for i in range(first, last + 1) if i in above)
        for name, unit in _defined(statement, functions, above):
            comments[name] = "; ".join(filter(None, (unit, comment)))
    return comments


def _defined(
    statement: ast.stmt, functions: dict[str, ast.FunctionDef], comments: dict[int, str]
) -> Iterator[tuple[str, str]]:
    """Yields the options that a statement of the schema defines, and their units.

    It is an assignment to one, or the call of a helper `add(group, "prefix")` of the schema, which
    assigns to `options[f"{name}_suffix"]`.
    """
    if isinstance(statement, ast.Assign):
        target = ast.unparse(statement.targets[0])
        if target.startswith("config."):
            yield target.removeprefix("config."), ""
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)):
        return
    call = statement.value
    helper = functions.get(ast.unparse(call.func))
    if helper is None:
        return
    group, prefix = ast.unparse(call.args[0]), ast.literal_eval(call.args[1])
    for line in helper.body:
        target = ast.unparse(line.targets[0]) if isinstance(line, ast.Assign) else ""
        suffix = re.search(r"\{name\}(\w+)", target)
        if suffix:
            name = f"{group}.{prefix}{suffix[1]}".removeprefix("config.")
            yield name, comments.get(line.lineno, "")


def _entry(name: str, comment: str, width: int) -> list[str]:
    """Returns the lines of one entry: its name, and its comment in a column beside it."""
    column = round(NAME_SHARE * width)
    beside = textwrap.wrap(comment, max(width - column, 20))
    lines = [f"  {name}"]
    if beside and len(lines[0]) < column:
        lines[0] = f"{lines[0]:<{column}}{beside.pop(0)}"
    return [*lines, *(" " * column + line for line in beside)]
