"""PyTorch's own files are read, and transformers opens what we write.

Runs where torch and transformers are installed (the `torch` extra).
"""

import json

import jax
import numpy as np
import pytest

from groupvit_jax import convert

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


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'legacy', 'shards'])
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
    path, new = tmp_path / 'pytorch_model.bin', name != 'legacy'
    torch.save(weights, path, _use_new_zipfile_serialization=new)
  loaded = convert.load_source(tmp_path)
  wanted = golden_models.converted(arrays)
  assert loaded.architecture == wanted.architecture
  jax.tree.map(
    np.testing.assert_array_equal, loaded.variables, wanted.variables
  )


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
