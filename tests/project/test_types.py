"""Public functions have types."""

import ast
import pathlib
from collections.abc import Iterator

import groupvit_jax

PACKAGE = pathlib.Path(groupvit_jax.__file__).parent


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
  """Functions, and methods of classes, without a leading underscore."""
  for node in body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      if node.name.startswith('_') and node.name != '__init__':
        continue
      if isinstance(node, ast.ClassDef):
        yield from public_functions(node.body)
      else:
        yield node


def untyped(function: ast.FunctionDef) -> list[str]:
  """Arguments without a type, and 'return'."""
  a = function.args
  arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
  names = [
    x.arg
    for x in arguments
    if x and x.annotation is None and x.arg not in ('self', 'cls')
  ]
  if function.returns is None and function.name not in ('__init__', 'setup'):
    names.append('return')
  return names


def test_every_public_function_is_annotated():
  found = [
    f'{path.relative_to(PACKAGE)}:{function.lineno} {function.name}: {names}'
    for path in sorted(PACKAGE.rglob('*.py'))
    for function in public_functions(ast.parse(path.read_text()).body)
    if (names := untyped(function))
  ]
  assert not found
