"""Exported programs compute what the model computes, for any batch."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from groupvit_jax import cli, inference
from groupvit_jax.convert import folder as model_folder

NAMES = ['dog', 'grass|lawn', 'sky']
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.mark.parametrize('regroup', ['none', 'kmeans'])
def test_programs_for_every_platform_from_one_command(
  tiny_inference, tmp_path, monkeypatch, regroup
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  own = {'regroup': regroup, 'one_hot': regroup == 'none'}
  source = tiny_inference.source()
  source = dataclasses.replace(source, preprocessing=source.preprocessing | own)
  folder = model_folder.write(tmp_path / 'model', source)
  command = ['export', str(folder), str(tmp_path / 'out')]
  assert cli.main([*command, '--labels', ','.join(NAMES)]) == 0
  assert cli.main([*command, '--platforms', 'cpu,gpu']) == 1
  described = json.loads((tmp_path / 'out' / 'programs.json').read_text())
  assert described['names'] == ['background', 'dog', 'grass', 'sky']
  takes = described['programs']['segment']['takes']
  assert takes == 'uint8[b,32,32,3]'

  def program(name):
    content = (tmp_path / 'out' / f'{name}.stablehlo').read_bytes()
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    return exported.call

  model = inference.load(folder)
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
  np.testing.assert_allclose(
    program('image')(pixels), model.encode_pixels(pixels), atol=1e-5
  )
  texts = ['a cat', 'the green sea']
  np.testing.assert_allclose(
    program('text')(np.asarray(model.tokenizer(texts))),
    model.encode_text(texts),
    atol=1e-5,
  )
  pixels = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
  scores = np.asarray(program('segment')(pixels))
  for image, found in zip(pixels, scores, strict=True):
    wanted = model.segment(image, NAMES).scores.transpose(1, 2, 0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
