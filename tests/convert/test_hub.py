"""Models by name, from a local server that answers as the hub does.

Its answers follow huggingface_hub's client: the headers ETag, X-Repo-Commit and
X-Error-Code, files below /OWNER/NAME/resolve/REVISION.
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from huggingface_hub import constants

from groupvit_jax import convert, files
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.convert import tensors
from groupvit_jax.errors import ModelError
from groupvit_jax.text import sentencepiece

COMMIT = 'c0ffee' + '0' * 34
CLIP = pathlib.Path(__file__).parents[1] / 'testdata' / 'clip_files' / 'vit'
NOWHERE = 'http://127.0.0.1:9'
GROUPVIT = 'nvidia/groupvit-gcc-yfcc'


class Hub(http.server.ThreadingHTTPServer):
  """Serves `files`: names of models to names of files to their bytes."""

  def __init__(self):
    self.files, self.requests, self.tokens = {}, [], set()
    super().__init__(('127.0.0.1', 0), Handler)

  @property
  def address(self):
    return f'http://127.0.0.1:{self.server_port}'


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers HEAD and GET of files; gated/* wants an accepted token."""

  def do_HEAD(self):
    owner, name, _, revision, *rest = self.path.strip('/').split('/')
    model, file = f'{owner}/{name}', '/'.join(rest)
    self.server.requests.append(f'{self.command} {file}')
    self.server.tokens.add(self.headers.get('authorization'))
    files = self.server.files.get(model)
    error = None
    if files is None:
      error = 'GatedRepo' if owner == 'gated' else 'RepoNotFound'
    elif revision not in ('main', 'v1', COMMIT):
      error = 'RevisionNotFound'
    elif file not in files:
      error = 'EntryNotFound'
    content = b'' if error else files[file]
    self.send_response({None: 200, 'GatedRepo': 403}.get(error, 404))
    if error:
      self.send_header('X-Error-Code', error)
    if files is not None:
      self.send_header('X-Repo-Commit', COMMIT)
    self.send_header('ETag', f'"{hashlib.sha256(content).hexdigest()}"')
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(content)

  do_GET = do_HEAD

  def log_message(self, *_):
    """Says nothing."""


@pytest.fixture(scope='module')
def server():
  with Hub() as running:
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()


@pytest.fixture
def point_to(monkeypatch):
  """Function that sets the library's address of the hub.

  It reads its environment when imported; a process of its own, below, is given
  nothing but the environment.
  """

  def point_to(address):
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    template = f'{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)

  return point_to


@pytest.fixture(autouse=True)
def client(server, tmp_path, monkeypatch, point_to):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  point_to(server.address)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  server.files.clear()
  server.requests.clear()


@pytest.fixture
def groupvit(server, golden_models, pickles, tmp_path):
  """A GroupViT as it is published: PyTorch's pickle beside config.json."""
  arrays = golden_models.load()
  pickles.save(golden_models.state(arrays), tmp_path / 'pytorch_model.bin')
  server.files[GROUPVIT] = {
    'config.json': json.dumps(golden_models.config(arrays)).encode(),
    'pytorch_model.bin': (tmp_path / 'pytorch_model.bin').read_bytes(),
    'tf_model.h5': b'another framework: nobody asks for it',
  }
  return golden_models.converted(arrays)


def assert_same(ours, theirs):
  assert ours.architecture == theirs.architecture
  jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)


def test_a_model_is_downloaded_and_converted_once(server, groupvit):
  assert_same(convert.load_source(GROUPVIT), groupvit)
  assert 'GET pytorch_model.bin' in server.requests
  assert not any('tf_model' in request for request in server.requests)
  server.requests.clear()
  again = convert.load_source(GROUPVIT)
  assert_same(again, groupvit)
  assert server.requests == ['HEAD config.json']
  assert again.metadata['file'] == f'{GROUPVIT}@{COMMIT}'
  assert model_folder.is_model_folder(convert.find(GROUPVIT))


def test_safetensors_come_first_whole_or_in_shards(
  server, groupvit, golden_models, tmp_path
):
  state = golden_models.state(golden_models.load())
  names = list(state)
  index = {'weight_map': {}}
  files = server.files[GROUPVIT] | {'pytorch_model.bin': b'not read'}
  for i in range(2):
    part = f'model-{i}.safetensors'
    tensors.write(tmp_path / part, {k: state[k] for k in names[i::2]}, {})
    files[part] = (tmp_path / part).read_bytes()
    index['weight_map'] |= dict.fromkeys(names[i::2], part)
  files['model.safetensors.index.json'] = json.dumps(index).encode()
  server.files[GROUPVIT] = files
  assert_same(convert.load_source(f'{GROUPVIT}@v1'), groupvit)
  assert 'GET pytorch_model.bin' not in server.requests


def test_without_a_connection_the_cache_is_used(
  server, groupvit, monkeypatch, tmp_path, point_to
):
  with monkeypatch.context() as offline:
    offline.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(ModelError, match='holds neither config.json'):
      convert.load_source(GROUPVIT)
  convert.load_source(GROUPVIT)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  server.requests.clear()
  assert_same(convert.load_source(GROUPVIT), groupvit)
  # From what the library keeps, if our own copy is gone.
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'another'))
  assert_same(convert.load_source(GROUPVIT), groupvit)
  assert not server.requests
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  point_to(NOWHERE)
  assert_same(convert.load_source(GROUPVIT), groupvit)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nobody/nothing', 'no nobody/nothing here, and no model http.*HF_TOKEN'),
    ('gated/model', 'gated: accept its terms on http.*hf auth login'),
    (f'{GROUPVIT}@v2', 'no revision v2'),
    ('other/words', 'nor model.safetensors nor pytorch_model.bin'),
    ('runs/demo/last', 'there is no .*runs/demo/last; give a folder'),
  ],
)
def test_what_cannot_be_had_is_told_in_a_line(server, groupvit, name, message):
  server.files['other/words'] = {'config.json': b'{}'}
  with pytest.raises(ModelError, match=message):
    convert.load_source(name)


def test_an_unreachable_hub_is_told(point_to):
  point_to(NOWHERE)
  with pytest.raises(ModelError, match='127.0.0.1:9 cannot be reached'):
    convert.load_source(GROUPVIT)


def test_a_local_folder_of_that_name_wins(server, groupvit, tmp_path):
  with pytest.raises(ModelError, match=r'holds no model'):
    (tmp_path / GROUPVIT).mkdir(parents=True)
    convert.load_source(GROUPVIT)
  assert not server.requests


def test_a_folder_of_ours_with_its_tokenizer(server, tiny_inference, tmp_path):
  captions = [f'a {x} dog on {y} grass' for x in 'abcdef' for y in 'uvwxyz']
  tokenizer = sentencepiece.train_sentencepiece(captions, tmp_path / 't', 50)
  architecture = dict(tiny_inference.source().architecture)
  architecture['text'] = architecture['text'] | {'vocab_size': 50}
  source = tiny_inference.source(architecture, tokenizer=str(tokenizer))
  folder = model_folder.write(tmp_path / 'ours', source)
  server.files['me/mine'] = {p.name: p.read_bytes() for p in folder.iterdir()}
  loaded = convert.load_source('me/mine')
  assert_same(loaded, source)
  assert pathlib.Path(loaded.tokenizer).read_bytes() == tokenizer.read_bytes()


def test_open_clips_weights_beside_those_of_another_library(server):
  """As timm/resnet50_clip.cc12m, which holds timm's image encoder too."""
  name = 'timm/resnet50_clip.openai'
  server.files[name] = {p.name: p.read_bytes() for p in CLIP.iterdir()}
  server.files[name] |= {'config.json': b'{}', 'model.safetensors': b'timm'}
  assert_same(convert.load_source(name), convert.load_source(CLIP))


def test_the_command_by_the_environment_alone(server, tmp_path):
  """A CLIP by its name, with a token, in a process of its own."""
  name = 'openai/clip-vit-base-patch32'
  clip = convert.load_source(CLIP)
  del clip.architecture['logit_bias'], clip.variables['params']['logit_bias']
  folder = convert.save_huggingface(clip, tmp_path / 'clip')
  server.files[name] = {p.name: p.read_bytes() for p in folder.iterdir()}
  done = subprocess.run(
    [sys.executable, '-m', 'groupvit_jax', 'info', name],
    env=os.environ
    | {
      'HF_ENDPOINT': server.address,
      'HF_HOME': str(tmp_path / 'home'),
      'HF_TOKEN': 'hf_secret',
    },
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert f"Hugging Face's CLIP ({name}@{COMMIT})" in done.stdout
  assert 'Bearer hf_secret' in server.tokens
  assert files.cache('models').is_dir()
