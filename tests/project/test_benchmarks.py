"""Rows of the emergence benchmark exist; finished runs are not made again."""

import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))

import demo  # noqa: E402
import emergence  # noqa: E402

from configs.gvit_s import get_config  # noqa: E402
from groupvit_jax.training import task  # noqa: E402


@pytest.mark.parametrize('name', emergence.ROWS)
def test_a_row_is_a_configuration(name):
  options = emergence.ROWS[name]
  config = get_config(f'demo,{options}' if options else 'demo')
  task.make(config, 100)
  if name != 'demo':
    assert config.to_json() != get_config('demo').to_json()


def test_a_finished_run_from_before_an_option_is_taken_as_it_is(tmp_path):
  config = get_config('demo').to_dict()
  del config['loss']['background_weight']
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'summary.json').write_text('{"miou": 1.0}')
  assert demo.run('demo', tmp_path) == {'miou': 1.0}
  with pytest.raises(SystemExit, match='so 0.0 -> 1.0'):
    demo.run('demo,loss.background_weight=1.0', tmp_path)
