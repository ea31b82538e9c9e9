"""CLIP's tokenizer: goldens, live comparison, and the shape of its rows.

Goldens come from open_clip_torch (testdata/make_clip_ids.py); where it or the
merges are at hand, real captions are compared too.
"""

import functools
import importlib.util
import json
import pathlib
import pickle
import random

import numpy as np
import pytest

from groupvit_jax.text import base, clip, make_tokenizer

TESTDATA = pathlib.Path(__file__).parents[1] / 'testdata'
SHARED = pathlib.Path(__file__).parents[3] / 'shared' / 'data'
GOLDEN = json.loads((TESTDATA / 'clip_ids.json').read_text())


def script(name):
  """A script of `testdata`, imported by its path."""
  spec = importlib.util.spec_from_file_location(name, TESTDATA / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def tok():
  return clip.ClipTokenizer()


@pytest.fixture(scope='module')
def make_clip_bpe():
  return script('make_clip_bpe')


@pytest.fixture(scope='module')
def merges(make_clip_bpe):
  """CLIP's merges, which the project does not carry."""
  shared = SHARED / 'clip_bpe' / make_clip_bpe.MERGES_NAME
  try:
    return make_clip_bpe.read_merges(make_clip_bpe.find_merges())
  except FileNotFoundError:
    if shared.is_file():
      return make_clip_bpe.read_merges(shared)
  pytest.skip("neither open_clip_torch nor a copy of CLIP's merges is here")


@functools.cache
def texts() -> list[str]:
  """Real captions where there are any, the goldens, and mixtures of them."""
  found = [entry['text'] for entry in GOLDEN]
  for path in sorted(SHARED.glob('*/captions.jsonl')):
    for line in path.read_text().splitlines():
      found += json.loads(line)['captions']
  rng = random.Random(0)
  joined = [' '.join(rng.sample(found, 2)) for _ in range(300)]
  shuffled = [''.join(rng.sample(text, len(text))) for text in joined]
  return found + joined + shuffled


@pytest.mark.parametrize('entry', GOLDEN, ids=lambda entry: entry['text'][:20])
def test_golden(tok, entry):
  row = tok([entry['text']])[0]
  assert row[: len(entry['ids'])].tolist() == entry['ids']
  assert not row[len(entry['ids']) :].any()


def test_equals_open_clip(tok):
  pytest.importorskip('torch', reason='open_clip_torch needs torch')
  if importlib.util.find_spec('open_clip') is None:
    pytest.skip('open_clip_torch is not installed')
  reference = script('make_clip_ids').load_open_clip_tokenizer()()
  np.testing.assert_array_equal(tok(texts()), reference(texts()).numpy())


def test_equals_tokenizers(tok, merges):
  hf = pytest.importorskip('tokenizers', reason='tokenizers is not installed')
  symbols = list(clip.alphabet())
  symbols += [symbol + '</w>' for symbol in symbols]
  symbols += [first + second for first, second in merges]
  reference = hf.Tokenizer(
    hf.models.BPE(
      vocab={symbol: i for i, symbol in enumerate(symbols)},
      merges=merges,
      end_of_word_suffix='</w>',
    )
  )
  split = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
  reference.pre_tokenizer = hf.pre_tokenizers.Sequence(
    [
      hf.pre_tokenizers.Split(hf.Regex(split), 'removed', invert=True),
      hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  encoded = reference.encode_batch([clip.clean(text) for text in texts()])
  wrong = [
    text
    for text, expected in zip(texts(), encoded, strict=True)
    if tok.encode(text) != expected.ids
  ]
  assert wrong == []


def test_model_is_what_the_script_builds(make_clip_bpe, merges):
  pytest.importorskip('google.protobuf', reason='building needs protobuf')
  assert make_clip_bpe.build(merges) == clip.MODEL_PATH.read_bytes()


def test_licence_travels_with_the_model():
  notice = clip.MODEL_PATH.with_name('NOTICE').read_text()
  assert 'MIT License' in notice and 'OpenAI' in notice


def test_other_merges_are_refused(make_clip_bpe, tmp_path):
  path = tmp_path / 'merges.txt.gz'
  path.write_bytes(b'something else')
  with pytest.raises(ValueError, match="not CLIP's merges file"):
    make_clip_bpe.read_merges(path)


def test_rows(tok):
  rows = tok(['a photo of a cat', ''])
  assert rows.dtype == np.int32 and rows.shape == (2, 77)
  assert rows[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
  assert rows[1, :3].tolist() == [49406, 49407, 0]
  assert (rows.argmax(1) == [6, 1]).all()
  assert tok([]).shape == (0, 77)


def test_one_text_is_one_row(tok):
  np.testing.assert_array_equal(tok('a cat'), tok(['a cat']))


def test_truncation_keeps_the_end():
  tok = clip.ClipTokenizer(context_length=6)
  row = tok(['one two three four five six'])[0]
  full = clip.ClipTokenizer()(['one two three four'])[0]
  assert row.tolist() == [*full[:5], tok.eot_id]


@pytest.mark.parametrize('words', [73, 74, 75, 76, 77, 78])
def test_around_the_limit(tok, words):
  row = tok(['cat ' * words])[0]
  assert (row == tok.eot_id).sum() == 1
  assert row.argmax() == min(words + 1, 76)


def test_marks_in_a_caption_get_their_ids_as_in_clip(tok):
  text = 'a <|startoftext|> b <|EndOfText|>'
  assert tok.encode(text) == [320, 49406, 321, 49407]


@pytest.mark.parametrize(
  'text', ['x' * 10_000, 'x ' * 5000, '!' * 10_000, '猫' * 10_000, '&' * 10_000]
)
def test_ten_thousand_characters(tok, text):
  row = tok([text])[0]
  assert row[0] == tok.sot_id and row[76] == tok.eot_id
  assert row[1:76].tolist() == tok.encode(text)[:75]


def test_pieces(tok):
  assert tok.pieces(tok(['a jörmungandr'])[0][:7]) == [
    '<|startoftext|>', 'a</w>', 'j', 'ör', 'mun', 'gand', 'r</w>'
  ]  # fmt: skip


def test_pickles(tok):
  copy = pickle.loads(pickle.dumps(tok))
  np.testing.assert_array_equal(copy(['a cat']), tok(['a cat']))


def test_protocol(tok):
  assert isinstance(tok, base.Tokenizer)
  assert (tok.vocab_size, tok.sot_id, tok.eot_id) == (49408, 49406, 49407)
  assert isinstance(make_tokenizer('clip', 9), clip.ClipTokenizer)
  assert make_tokenizer('clip', 9)(['a']).shape == (1, 9)


def test_too_short_a_context():
  with pytest.raises(ValueError, match='context_length must be at least 3'):
    clip.ClipTokenizer(context_length=2)
