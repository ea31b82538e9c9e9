"""Config arguments and comparison: the small grammar behind `--config=F:arg`.

One string names variants and overrides fields, so that every experiment is
one command (big_vision's `parse_arg` habit).
"""

import ast
import difflib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_collections

from groupvit_jax.errors import ConfigError

# A type checker cannot know the types of the fields.
if TYPE_CHECKING:
  Config = Any
else:
  Config = ml_collections.ConfigDict

# Fields that say how a run is watched, and how it lies on the devices, not what
# it computes: a run may be resumed with other values here.
RUN_FIELDS = ('run', 'mesh', 'accumulate')

# Where 'auto' stands for a choice by a measurement, which the run's config.json
# records: a resumed run keeps it.
MEASURED = 'matmul_operands'

# Fields of former versions, with the one value that later ones still mean.
REMOVED = {
  'loss.background_shapes': False,
  'loss.cluster_weight': 0.0,
  'loss.distillation_weight': 0.0,
  'loss.num_clusters': 4,
}

# Fields that count something, and therefore are at least 1.
POSITIVE = (
  'num_steps',
  'batch_size',
  'image_size',
  'run.log_every',
  'run.eval_every',
  'run.checkpoint_every',
  'run.keep',
  'run.max_skipped',
  'mesh.fsdp',
  'accumulate',
)
_KINDS = {
  int: 'an integer',
  float: 'a number',
  bool: 'true or false',
  str: 'text',
}


def from_arg(
  arg: str | None,
  config: Config,
  variants: Mapping[str, Callable[[Config], None]],
  aliases: Mapping[str, str],
) -> Config:
  """Changes a config as `demo,steps=200` says; what `get_config` returns.

  Args:
    arg: the text after the colon of `--config=FILE:arg`; None means none.
    config: the config without variants and options, changed in place.
    variants: functions by name that change a config.
    aliases: short names of fields, such as `steps` of `num_steps`.

  Raises:
    ConfigError: an unknown variant or field, or a value of another type.
  """
  names, options = _parse_arg(arg, variants)
  for name in names:
    variants[name](config)
  _apply_options(config, options, aliases)
  return config


def _parse_arg(
  arg: str | None, variants: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
  """Splits `demo,steps=200` into variant names and options as text."""
  names, options = [], {}
  for word in filter(None, (arg or '').split(',')):
    if word.count('{') != word.count('}'):
      raise ConfigError(
        f"'{word}' is cut at a comma: a comma ends an option, also inside "
        "{a,b}. Name both and join them by '+', such as data.shards=a.tar+b.tar"
      )
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


def _apply_options(
  config: Config,
  options: Mapping[str, str],
  aliases: Mapping[str, str],
) -> None:
  """Sets fields in place, converting texts to each field's type."""
  flat = flatten(config)
  for name, text in options.items():
    path = aliases.get(name, name)
    if path in REMOVED:
      raise ConfigError(
        f"config option '{name}' was removed, since it did not help; runs "
        f'behave as with {name}={REMOVED[path]}'
      )
    if path not in flat:
      known = [*aliases, *flat]
      raise ConfigError(
        f"unknown config option '{name}'{_suggest(name, known)}; short "
        f'names: {", ".join(aliases)}; any field works by its dotted path'
      )
    *parents, leaf = path.split('.')
    node: Any = config
    for parent in parents:
      node = node[parent]
    node[leaf] = _convert(name, text, flat[path])


def check(config: Config) -> None:
  """Refuses values that would fail later and less clearly.

  Raises:
    ConfigError: one sentence about the first such field.
  """
  flat = flatten(config)
  for path in POSITIVE:
    if flat.get(path, 1) < 1:
      raise ConfigError(
        f"config field '{path}' is {flat[path]}; it has to be at least 1"
      )
  for path, known in _choices().items():
    if path in flat and flat[path] not in known:
      raise ConfigError(
        f"config field '{path}' is {flat[path]!r}{_suggest(flat[path], known)}"
        f'; choose one of {", ".join(known)}'
      )
  if config.loss.chunk_size < 0:
    raise ConfigError(
      f"config field 'loss.chunk_size' is {config.loss.chunk_size}; give the "
      'columns of the similarity at a time, or 0 for all'
    )
  if config.optimizer.clip_norm < 0:
    raise ConfigError(
      f"config field 'optimizer.clip_norm' is {config.optimizer.clip_norm}; "
      'give the largest norm of the gradient, or 0 for no clipping'
    )
  if flat.get('loss.background_weight') and not config.loss.num_nouns:
    raise ConfigError(
      'a background is learned from nouns; set loss.num_nouns above 0, or '
      'loss.background_weight to 0'
    )
  if flat.get('accumulate', 1) > 1 and config.task == 'clip_resnet':
    raise ConfigError(
      f'accumulate={config.accumulate} encodes a batch in parts, but this '
      'image encoder has batch norm, whose statistics are of the whole batch; '
      'set accumulate=1'
    )
  check_packages(flat)


def check_packages(flat: Mapping[str, Any]) -> None:
  """Refuses fields, by dotted path, that need a package that is not there.

  Raises:
    ConfigError: one sentence, which names the extra.
  """
  if not flat.get('run.wandb'):
    return
  try:
    importlib.import_module('wandb')
  except ImportError as error:
    raise ConfigError(
      f'run.wandb={flat["run.wandb"]} needs Weights & Biases: pip install '
      "'groupvit_jax[wandb]'"
    ) from error


def _choices() -> dict[str, Sequence[str]]:
  """Fields that name one of several things, with these names."""
  # Inside: `main` reads its flags before JAX is imported.
  from groupvit_jax.data import augment, on_device, pipeline, sources
  from groupvit_jax.evaluation import clustering
  from groupvit_jax.evaluation import config as evaluation
  from groupvit_jax.losses import multi_label
  from groupvit_jax.models import grouping, ops
  from groupvit_jax.text import nouns, prompts
  from groupvit_jax.training import clip, loss, optimizer, task

  return {
    'task': tuple(task.TASKS),
    'dtype': ('float32', 'bfloat16', 'float16'),
    'matmul_operands': (*ops.OPERANDS, 'auto'),
    'model.assignment': grouping.ASSIGNMENTS,
    'loss.multi_label_form': multi_label.FORMS,
    'loss.noun_match': loss.NOUN_MATCHES,
    'loss.name': clip.LOSSES,
    'optimizer.name': optimizer.NAMES,
    'data.source': ('scenes', 'shards', 'records', 'tfds'),
    'data.order': sources.ORDERS,
    'data.augment': tuple(augment.AUGMENTS),
    'data.augment_on': pipeline.AUGMENT_ON,
    'data.normalization': tuple(on_device.NORMALIZATIONS),
    'data.templates': tuple(prompts.TEMPLATES),
    'data.word_kind': nouns.KINDS,
    'eval.templates': tuple(prompts.TEMPLATES),
    'eval.regions': ('model', *clustering.GROUPINGS),
    'eval.regroup': evaluation.REGROUPINGS,
  }


def own_steps(evaluation: Mapping[str, Any] | Config) -> dict[str, Any]:
  """Fields of `SegmentConfig` that a run is evaluated with.

  Args:
    evaluation: the config's `eval`, also that of an older run; 0 is None there.
  """
  from groupvit_jax.evaluation.config import OWN_STEPS  # as in `_choices`

  found = {name: evaluation[name] for name in OWN_STEPS if name in evaluation}
  counts = ('top_k', 'regroup_number')
  return {k: (v or None) if k in counts else v for k, v in found.items()}


def check_tuple(path: str, value: tuple, default: Sequence[Any]) -> None:
  """Checks what a command line gave to a field that is a tuple.

  config_flags sees to it that it is a tuple, but not of what.

  Args:
    path: of the field, dotted.
    value: what it was given.
    default: what the config file gave it; tells what belongs there.

  Raises:
    ConfigError: other things than in the default.
  """
  kind = _kind(default)
  if any(type(item) is not kind for item in value):
    shown = tuple(default) or ('a.tar', 'b.tar')
    given = value[0] if len(value) == 1 else value
    raise ConfigError(
      f"config field '{path}' needs a tuple of {kind.__name__} such as "
      f'"{shown}", not {given!r}'
    )


def unknown_field(config: Config, path: str) -> str:
  """Says so if `path` (dotted) leads to no field of `config`; else ''."""
  node = config
  for part in path.split('.'):
    if not isinstance(node, ml_collections.ConfigDict) or part not in node:
      return f"unknown config field '{path}'{_suggest(path, flatten(config))}"
    node = node[part]
  return ''


def flatten(
  config: Mapping[str, Any] | Config, prefix: str = ''
) -> dict[str, Any]:
  """Returns {dotted path: value} of a nested config."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def to_json(config: Config) -> str:
  """Returns the config as stable, readable JSON."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def differences(ours: str, theirs: str, base: str = '{}') -> list[str]:
  """Lists the fields in which two configs ask for other results.

  Fields under `RUN_FIELDS` are left out. A new option is off in the base, so
  `theirs`, stored before there was one, is taken to have the base's value. A
  field that `ours` no longer has may have acted, and is listed, unless it is in
  `REMOVED` and was off. 'auto' in the field `MEASURED` takes any choice.

  Args:
    ours, theirs: configs as JSON.
    base: of `ours`, without variants and options, as JSON; '{}' knows none, and
      tells every field that `theirs` lacks.

  Returns:
    Entries that read `path: theirs -> ours`.

  Raises:
    ValueError: one is no JSON object.
  """
  a, stored, defaults = map(_parsed, (ours, theirs, base))
  b = {path: defaults[path] for path in a if path in defaults} | stored
  missing = '(absent)'

  def before(path):
    assumed = path in b and path not in stored
    return f'{missing}, so {b[path]}' if assumed else b.get(path, missing)

  def now(path):
    gone = f'(removed: only {REMOVED.get(path)} can be resumed)'
    return gone if path in REMOVED else a.get(path, missing)

  return [
    f'{path}: {before(path)} -> {now(path)}'
    for path in sorted(a.keys() | b.keys())
    if path.split('.')[0] not in RUN_FIELDS
    and a.get(path, missing) != b.get(path, missing)
    and (path, a.get(path)) != (MEASURED, 'auto')
  ]


def _parsed(text: str) -> dict[str, Any]:
  config = json.loads(text)
  if not isinstance(config, dict):
    raise ValueError(f'a config is an object, not {text[:20]!r}')
  return {
    path: value
    for path, value in flatten(config).items()
    if path not in REMOVED or value != REMOVED[path]
  }


def _convert(name: str, text: str, current: Any) -> Any:
  """Parses `text` as a value of the same type as `current`."""
  if isinstance(current, str):
    return text
  if isinstance(current, tuple):
    return _convert_tuple(name, text, current)
  value = _literal(text)
  if isinstance(current, float) and type(value) is int:
    value = float(value)
  if current is not None and type(value) is not type(current):
    raise ConfigError(
      f"config option '{name}' needs {_KINDS[type(current)]} such as "
      f"{current!r}, not '{text}'"
    )
  return value


def _convert_tuple(name: str, text: str, current: tuple) -> tuple:
  """Parses `a.tar+b.tar` or `6x3x3`: a comma would end the option.

  Strings are joined by `+`, since paths are full of the letter x; numbers by
  `x`.
  """
  kind = _kind(current)
  if kind is str:
    return tuple(filter(None, text.split('+')))
  values = tuple(map(_literal, text.split('x')))
  if any(type(value) is not kind for value in values):
    shown = 'x'.join(map(str, current))
    raise ConfigError(
      f"config option '{name}' needs a tuple such as {shown}, not '{text}'"
    )
  return values


def _kind(default: Sequence[Any]) -> type:
  """The type of a tuple's elements; an empty tuple holds strings."""
  return type(default[0]) if default else str


def _literal(text: str) -> Any:
  """The Python literal that `text` spells; None if it spells none."""
  try:
    return ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
  except (ValueError, SyntaxError):
    return None


def _suggest(word: str, known: Iterable[str]) -> str:
  close = difflib.get_close_matches(word, list(known), n=1)
  return f" (did you mean '{close[0]}'?)" if close else ''
