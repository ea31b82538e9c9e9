"""Exported programs compute what the model computes, for any batch."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from groupvit_jax import cli, inference
from groupvit_jax.convert import folder as model_folder

NAMES = ['dog', 'grass|lawn', 'sky']


@pytest.fixture
def folder(tiny_inference, tmp_path, monkeypatch):
  """Function of fields of a config: a model folder that has them."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

  def write(**own):
    source = tiny_inference.source()
    preprocessing = source.preprocessing | own
    source = dataclasses.replace(source, preprocessing=preprocessing)
    return model_folder.write(tmp_path / 'model', source, overwrite=True)

  return write


def command(folder, out, *options):
  return ['export', str(folder), str(out), '--labels', *options]


def check_description(out):
  described = json.loads((out / 'programs.json').read_text())
  assert described['names'] == ['background', 'dog', 'grass', 'sky']
  takes = described['programs']['segment']['takes']
  assert takes == 'uint8[b,32,32,3]'


def compare(folder, program):
  """Programs (by name: from an array to an array) with the model."""
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


@pytest.mark.parametrize('regroup', ['none', 'kmeans'])
def test_programs_for_every_platform_from_one_command(
  folder, tmp_path, regroup
):
  folder = folder(regroup=regroup, one_hot=regroup == 'none')
  words = command(folder, tmp_path / 'out', ','.join(NAMES))
  assert cli.main(words) == 0
  assert cli.main([*words, '--platforms', 'cpu,gpu']) == 1
  check_description(tmp_path / 'out')

  def program(name):
    content = (tmp_path / 'out' / f'{name}.stablehlo').read_bytes()
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ('cpu', 'cuda', 'tpu')
    return exported.call

  compare(folder, program)


def test_a_saved_model(folder, tmp_path, capsys):
  tf = pytest.importorskip('tensorflow', reason="needs the 'train' extra")
  folder, out = folder(regroup='kmeans'), tmp_path / 'out'
  words = command(folder, out, ','.join(NAMES), '--format', 'tf')
  if cli.main(words):
    assert 'take jax 0.10' in capsys.readouterr().err
    pytest.skip('this TensorFlow does not read programs of this jax')
  check_description(out)
  loaded = tf.saved_model.load(str(out))

  def program(name):
    return lambda x: loaded.signatures[name](x=tf.constant(x))[name].numpy()

  compare(folder, program)


def test_onnx_files(folder, tmp_path):
  """By processes: jax2onnx leaves changes in `jax.numpy`."""
  if not importlib.util.find_spec('jax2onnx'):
    pytest.skip("needs the 'onnx' extra")
  runtime = pytest.importorskip('onnxruntime')
  make, out = folder, tmp_path / 'out'
  folder = make(regroup='kmeans')
  words = command(folder, out, ','.join(NAMES), '--format', 'onnx')
  assert cli.main(words) == 1  # k-means
  make()
  subprocess.run([sys.executable, '-m', 'groupvit_jax', *words], check=True)
  check_description(out)

  def program(name):
    session = runtime.InferenceSession(str(out / f'{name}.onnx'))
    (taken,) = session.get_inputs()
    return lambda x: session.run(None, {taken.name: x})[0]

  compare(folder, program)
