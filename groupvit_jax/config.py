"""Config arguments and comparison: the small grammar behind `--config=F:arg`.

One string names variants and overrides fields, so that every experiment is
one command (big_vision's `parse_arg` habit).
"""

import ast
import difflib
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from groupvit_jax.errors import ConfigError

# Fields that say how a run is watched, not what it computes: a run may be
# resumed with other values here.
RUN_FIELDS = ('run',)


def parse_arg(
  arg: str | None, variants: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
  """Splits `demo,steps=200` into variant names and options.

  Args:
    arg: the text after the colon of `--config=FILE:arg`; None means none.
    variants: the known variant names.

  Returns:
    The variant names in order, and the options as strings.

  Raises:
    ConfigError: a word without `=` that is no variant.
  """
  names, options = [], {}
  for word in filter(None, (arg or '').split(',')):
    key, is_option, value = word.partition('=')
    if is_option:
      options[key.strip()] = value.strip()
    elif word.strip() in variants:
      names.append(word.strip())
    else:
      raise ConfigError(
        f"unknown config variant '{word}'{_suggest(word, variants)}; "
        f'the variants are: {", ".join(variants)}'
      )
  return names, options


def apply_options(
  config: ml_collections.ConfigDict,
  options: Mapping[str, str],
  aliases: Mapping[str, str],
) -> None:
  """Sets fields of `config` in place, converting to each field's type.

  Args:
    config: the config.
    options: alias or dotted path -> value as text.
    aliases: short name -> dotted path, e.g. `steps` -> `num_steps`.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  flat = flatten(config)
  for name, text in options.items():
    path = aliases.get(name, name)
    if path not in flat:
      known = [*aliases, *flat]
      raise ConfigError(
        f"unknown config option '{name}'{_suggest(name, known)}; short "
        f'names: {", ".join(aliases)}; any field works by its dotted path'
      )
    *parents, leaf = path.split('.')
    node = config
    for parent in parents:
      node = node[parent]
    node[leaf] = _convert(name, text, flat[path])


def flatten(
  config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = ''
) -> dict[str, Any]:
  """Returns {dotted path: value} of a nested config."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def to_json(config: ml_collections.ConfigDict) -> str:
  """Returns the config as stable, readable JSON."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def differences(ours: str, theirs: str) -> list[str]:
  """Lists the fields in which two configs (as JSON) ask for other results.

  Fields under `RUN_FIELDS` are left out. Each entry reads
  `path: theirs -> ours`.
  """
  a, b = flatten(json.loads(ours)), flatten(json.loads(theirs))
  missing = '(absent)'
  return [
    f'{path}: {b.get(path, missing)} -> {a.get(path, missing)}'
    for path in sorted(a.keys() | b.keys())
    if path.split('.')[0] not in RUN_FIELDS
    and a.get(path, missing) != b.get(path, missing)
  ]


def _convert(name: str, text: str, current: Any) -> Any:
  """Parses `text` as a value of the same type as `current`."""
  if isinstance(current, str):
    return text
  if isinstance(current, tuple):
    # A comma already separates options, so sequences are written 6x3x3.
    text = '(' + ''.join(f'{part},' for part in text.split('x')) + ')'
  try:
    value = ast.literal_eval(
      text.replace('true', 'True').replace('false', 'False')
    )
  except (ValueError, SyntaxError):
    value = None
  if isinstance(current, float) and type(value) is int:
    value = float(value)
  if current is not None and type(value) is not type(current):
    raise ConfigError(
      f"config option '{name}' needs a {type(current).__name__} such as "
      f"{current!r}, not '{text}'"
    )
  return value


def _suggest(word: str, known) -> str:
  close = difflib.get_close_matches(word, list(known), n=1)
  return f" (did you mean '{close[0]}'?)" if close else ''
