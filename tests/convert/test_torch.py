"""PyTorch's own files are read, and transformers opens what we write.

Runs where torch and transformers are installed (the `torch` extra).
"""

import json
import sys
import types

import jax
import numpy as np
import pytest

from groupvit_jax import convert
from groupvit_jax.convert import architecture, tensors
from groupvit_jax.errors import ModelError

torch = pytest.importorskip('torch', reason="needs the 'torch' extra")
transformers = pytest.importorskip(
  'transformers', reason="needs the 'torch' extra"
)


@pytest.fixture(scope='module')
def arrays(golden_models):
  return golden_models.load()


@pytest.fixture(scope='module')
def weights(golden_models, arrays):
  state = golden_models.state(arrays)
  return {k: torch.from_numpy(np.array(x)) for k, x in state.items()}


@pytest.fixture
def config(golden_models, arrays):
  return golden_models.config(arrays)


def assert_near(ours, theirs, atol=2e-5):
  np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=atol)


# Files of torch.


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'shards'])
def test_huggingface_bin_files(
  golden_models, tmp_path, arrays, weights, config, name
):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  if name == 'shards':
    parts = {f'part{i}.bin': list(weights)[i::2] for i in range(2)}
    for part, names in parts.items():
      torch.save({k: weights[k] for k in names}, tmp_path / part)
    index = {k: part for part, names in parts.items() for k in names}
    path = tmp_path / 'pytorch_model.bin.index.json'
    path.write_text(json.dumps({'weight_map': index}))
  else:
    torch.save(weights, tmp_path / name)
  loaded = convert.load_source(tmp_path)
  wanted = golden_models.converted(arrays)
  assert loaded.architecture == wanted.architecture
  jax.tree.map(
    np.testing.assert_array_equal, loaded.variables, wanted.variables
  )


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_an_original_checkpoint(
  golden_models, tmp_path, arrays, monkeypatch, prefix, legacy
):
  """With the optimizer's state and an OmegaConf config around the weights."""
  monkeypatch.setattr(architecture, 'HEAD_WIDTH', 4)
  state = golden_models.as_original(golden_models.state(arrays))
  checkpoint = {
    'model': {
      prefix + k: torch.from_numpy(np.array(x)) for k, x in state.items()
    },
    'optimizer': {'state': {0: {'exp_avg': torch.ones(3), 'step': 7}}},
    'metrics': {'max_miou': 51.5, 'max_accuracy': torch.tensor(42.0)},
    'epoch': 29,
    'config': omega_config(golden_models, arrays, monkeypatch),
  }
  path = tmp_path / 'ckpt_epoch_29.pth'
  torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
  monkeypatch.delitem(sys.modules, 'omegaconf.dictconfig')
  loaded = convert.load_source(path)
  metrics = {'max_miou': 51.5, 'max_accuracy': 42.0}
  assert loaded.metadata['metrics'] == metrics
  assert loaded.metadata['epoch'] == 29
  assert loaded.architecture['image']['num_heads'] == 2
  assert loaded.architecture['image']['drop_path_rate'] == 0.3
  ours = tensors.flatten(loaded.variables)
  assert ours.pop('params/multi_label_logit_scale') == 2.5
  theirs = tensors.flatten(golden_models.converted(arrays).variables)
  assert ours.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(ours[name], x, err_msg=name)


def omega_config(golden_models, arrays, monkeypatch):
  """An object that pickles as OmegaConf's containers do, whose module is gone.

  Checked once by hand against files of omegaconf 2.1.2 itself.
  """
  vision = golden_models.config(arrays)['vision_config']
  module = types.ModuleType('omegaconf.dictconfig')
  kind = type('DictConfig', (), {'__module__': 'omegaconf.dictconfig'})
  module.DictConfig = kind
  monkeypatch.setitem(sys.modules, 'omegaconf', types.ModuleType('omegaconf'))
  monkeypatch.setitem(sys.modules, 'omegaconf.dictconfig', module)

  def container(content):
    node = kind()
    node.__dict__.update({'_content': content, '_parent': None})
    return node

  encoder = container(
    {
      'num_heads': [2, 2, 2, 2],
      'depths': vision['depths'],
      'img_size': vision['image_size'],
      'drop_path_rate': 0.3,
    }
  )
  return container({'model': container({'img_encoder': encoder})})


def test_torchscript_is_read_as_data(tmp_path):
  path = tmp_path / 'my ViT-B-32.pt'
  torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
  with pytest.raises(ModelError, match=r'unknown model \((weight|bias), '):
    convert.load_source(path)


def test_tensors_that_are_no_arrays_are_refused(tmp_path):
  path = tmp_path / 'weights.pth'
  torch.save({'a': torch.eye(3).to_sparse()}, path)
  with pytest.raises(ModelError, match='a is sparse'):
    convert.load_source(path)


# transformers opens what we write.


def test_transformers_opens_an_exported_folder(golden_models, tmp_path, arrays):
  converted = golden_models.converted(arrays)
  converted.metadata['license'] = 'MIT'
  convert.save_huggingface(converted, tmp_path / 'hf')
  model, info = transformers.GroupViTModel.from_pretrained(
    tmp_path / 'hf', output_loading_info=True
  )
  for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    assert not info[kind], (kind, info[kind])
  model.save_pretrained(tmp_path / 'trained')
  again = convert.load_source(tmp_path / 'trained')
  assert again.metadata['license'] == converted.metadata['license']
  model.eval()
  with torch.no_grad():
    out = model(
      pixel_values=torch.from_numpy(arrays['in/pixel_values']),
      input_ids=torch.from_numpy(arrays['in/input_ids']),
    )
  assert_near(arrays['out/logits_per_image'], out.logits_per_image, 1e-4)
  assert_near(arrays['out/image_embeds'], out.image_embeds)


def test_transformers_opens_the_tokenizer_and_preprocessing(
  golden_models, tmp_path, arrays
):
  import dataclasses

  from groupvit_jax.text import make_tokenizer

  converted = golden_models.converted(arrays)
  converted = dataclasses.replace(converted, tokenizer='clip')
  folder = convert.save_huggingface(converted, tmp_path / 'hf')
  theirs = transformers.CLIPTokenizer.from_pretrained(folder)
  ours = make_tokenizer('clip')
  texts = ['a photo of a cat', "The dog's 42 über-naïve toys!", 'ski ☃ day']
  for text in texts:
    assert theirs(text)['input_ids'][1:-1] == ours.encode(text)
  assert theirs('cat')['input_ids'][::2] == [49406, 49407]
  processor = json.loads((folder / 'preprocessor_config.json').read_text())
  assert processor['image_mean'] == [0.485, 0.456, 0.406]
  assert processor['crop_size'] == {'height': 20, 'width': 12}
