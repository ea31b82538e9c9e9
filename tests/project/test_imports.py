"""Import rules: which way imports go, and which packages nobody may need.

docs/architecture.md shows the same layers; a new package gets its place here.
"""

import ast
import contextlib
import functools
import pathlib
import re
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata

from packaging import requirements

import groupvit_jax

PACKAGE = pathlib.Path(groupvit_jax.__file__).parent
ROOT = PACKAGE.parent

# Layers from the ground up. A package, or a file at the root, imports from
# layers below its own and from itself.
LAYERS = (
  ('errors',),
  ('embeddings', 'files', 'peers', 'processes', 'programs', 'sharding'),
  ('models', 'losses', 'text'),
  ('scenes', 'viz'),
  ('data',),
  ('evaluation',),
  ('benchmarks',),
  ('training',),
  ('convert',),
  ('inference',),
  ('serve',),
  ('cli', 'main'),
  ('__main__',),
)

# What nobody may need, also where another package brings it: for speed,
# TensorBoard, tests or notebooks.
ABSENT = (
  'apache_beam',
  'array_record',
  'beartype',
  'cykooz_resizer',
  'fastapi',
  'fsspec',
  'gradio',
  'importlib_resources',
  'pyarrow',
  'simplejpeg',
  'sklearn',
  'tensorboard',
  'tensorflow',
  'tensorflow_datasets',
  'torch',
  'transformers',
)


@functools.cache
def modules() -> dict[str, ast.Module]:
  """Every module of the package, parsed, by its dotted name."""
  found = {}
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
    found[name] = ast.parse(path.read_text())
  return found


def imports(tree: ast.AST, *, lazy: bool) -> list[str]:
  """Dotted names that a module imports; `lazy`: inside functions as well."""
  names = []
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports name the whole path'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
    elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      names += imports(node, lazy=lazy)
  return names


def package(name: str) -> str:
  """The package that a dotted name lies in; '' for the root itself."""
  return (*name.split('.'), '')[1]


def packages_imported(name: str) -> set[str]:
  """Packages that a module imports, also lazily."""
  found = {
    package(target)
    for target in imports(modules()[name], lazy=True)
    if target.split('.')[0] == 'groupvit_jax'
  }
  known = {package(module) for module in modules()}
  # `from groupvit_jax import __version__` names no package.
  return (found & known) - {'', package(name)}


def test_every_package_has_one_layer():
  placed = [p for layer in LAYERS for p in layer]
  assert len(placed) == len(set(placed))
  exist = {package(name) for name in modules()} - {''}
  assert exist == set(placed), 'give a new package its place in LAYERS'


def test_the_architecture_page_shows_the_same_layers():
  page = (ROOT / 'docs' / 'architecture.md').read_text()
  section = page.split('## Imports flow one way')[1]
  drawn = section.split('```')[1].strip().splitlines()
  assert [tuple(line.split(', ')) for line in reversed(drawn)] == list(LAYERS)


def test_imports_go_down():
  level = {p: i for i, layer in enumerate(LAYERS) for p in layer}
  against = [
    f'{name} imports {target}'
    for name in modules()
    if package(name)
    for target in sorted(packages_imported(name))
    if level[target] >= level[package(name)]
  ]
  assert not against, 'imports go from upper layers to lower ones'


def users_of(*libraries: str, lazy: bool = True) -> set[str]:
  """Modules that import one of these libraries."""
  return {
    name
    for name, tree in modules().items()
    for target in imports(tree, lazy=lazy)
    if target.split('.')[0] in libraries
  }


def test_no_module_imports_torch():
  assert not users_of('torch', 'transformers')


def test_tensorflow_is_imported_inside_functions():
  libraries = 'tensorflow', 'tensorflow_datasets'
  assert not users_of(*libraries, lazy=False)
  users = {package(name) for name in users_of(*libraries)}
  assert users <= {'data', 'scenes', 'benchmarks', 'training', 'inference'}


def declared() -> set[str]:
  """Distributions that a base installation brings, in lower case."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  names = (re.match(r'[\w-]+', r) for r in project['dependencies'])
  return {name[0].lower() for name in names}


def test_what_is_imported_is_declared():
  others = {'absl': 'absl-py', 'orbax': 'orbax-checkpoint', 'PIL': 'pillow'}
  known = {*sys.stdlib_module_names, 'groupvit_jax'}
  for name, tree in modules().items():
    for target in {t.split('.')[0] for t in imports(tree, lazy=False)} - known:
      wanted = others.get(target, target)
      assert wanted in declared(), f'{name} imports {target}'


def test_evaluation_imports_no_model():
  forbidden = {'models', 'losses', 'data', 'scenes', 'benchmarks'}
  for name in modules():
    if package(name) == 'evaluation':
      assert not packages_imported(name) & forbidden, name


def test_config_dicts_stop_in_training():
  plain = {'models', 'losses', 'text', 'data', 'evaluation', 'benchmarks'}
  users = {package(name) for name in users_of('ml_collections')}
  assert not users & plain


def test_training_input_knows_no_labelled_set():
  for name in modules():
    if package(name) == 'data':
      assert not packages_imported(name) & {'benchmarks', 'evaluation'}, name


def not_brought() -> set[str]:
  """Packages that are installed here and not by a base installation."""
  wanted, brought = [(normalised(name), '') for name in declared()], set()
  while wanted:
    name, extra = wanted.pop()
    if (name, extra) in brought:
      continue
    brought.add((name, extra))
    with contextlib.suppress(metadata.PackageNotFoundError):
      for text in metadata.requires(name) or ():
        need = requirements.Requirement(text)
        if need.marker is None or need.marker.evaluate({'extra': extra}):
          wanted += [(normalised(need.name), e) for e in ('', *need.extras)]
  names = {name for name, _ in brought} | {'groupvit-jax'}
  return {
    package
    for package, owners in metadata.packages_distributions().items()
    if not names & set(map(normalised, owners))
  }


def normalised(name: str) -> str:
  """A distribution's name as metadata compares it."""
  return re.sub('[-_.]+', '-', name).lower()


# Runs in a process of its own, before anything else is imported there.
_HIDE = """
import importlib, sys

class Hide:
  '''Finds what another finder finds, but for the absent packages.

  As on a machine that lacks them: find_spec tells None, import fails.
  '''

  def __init__(self, finder):
    self._finder = finder

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ABSENT:
      return None
    return self._finder.find_spec(name, path, target)

  def __getattr__(self, name):
    return getattr(self._finder, name)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
for name in ABSENT:
  try:
    importlib.import_module(name)
  except ImportError:
    continue
  raise AssertionError(f'{name} is not hidden')
"""

_IMPORT_ALL = """
for name in sys.argv[1:]:
  importlib.import_module(name)
loaded = {name.split('.')[0] for name in sys.modules}
assert not loaded & set(ABSENT), loaded & set(ABSENT)
print('imported', len(sys.argv) - 1)
"""


def run_without_extras(environment, script: str, *arguments: str) -> str:
  """Runs a script that sees only what a base installation brings."""
  # What Python's own start imports stays.
  hidden = f'import sys\nABSENT = {{*{ABSENT}, *{not_brought()}}}'
  hide = f'{hidden} - set(sys.modules)\n{textwrap.dedent(_HIDE)}'
  done = subprocess.run(
    [sys.executable, '-c', hide + script, *arguments],
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert not done.returncode, done.stderr[-4000:]
  return done.stdout


def test_every_module_imports_without_the_extras(plain_environment):
  # main defines flags, but imports as well.
  names = sorted(modules())
  out = run_without_extras(plain_environment, _IMPORT_ALL, *names)
  assert f'imported {len(names)}' in out


def test_every_pattern_of_package_data_matches_a_file():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  patterns = project['tool']['setuptools']['package-data']['groupvit_jax']
  assert all(any(PACKAGE.glob(pattern)) for pattern in patterns)
