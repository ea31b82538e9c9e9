"""User-trained sentencepiece models: training, rows, errors."""

import pickle

import numpy as np
import pytest

from groupvit_jax.text import base, clip, make_tokenizer, sentencepiece

CAPTIONS = [
  'A red apple on the sand.',
  'Two fish in the blue water.',
  'Ein Hund läuft über die grüne Wiese.',
  'Une photo d’un chat noir.',
  '猫が座っている',
] * 20


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  prefix = tmp_path_factory.mktemp('tokenizer') / 'tokenizer'
  return sentencepiece.train_sentencepiece(CAPTIONS, prefix, 120, 'bpe')


@pytest.fixture(scope='module')
def tok(model):
  return sentencepiece.SentencePieceTokenizer(model, context_length=16)


def test_rows(tok):
  rows = tok(['a red apple', '', 'grüne Wiese'])
  assert rows.dtype == np.int32 and rows.shape == (3, 16)
  assert (rows[:, 0] == tok.sot_id).all()
  assert (rows.max(1) == tok.eot_id).all()
  assert rows[1].tolist() == [118, 119] + [0] * 14


def test_marks_are_the_two_highest_ids(tok):
  assert (tok.vocab_size, tok.sot_id, tok.eot_id) == (120, 118, 119)
  assert isinstance(tok, base.Tokenizer)


@pytest.mark.parametrize(('model_type', 'size'), [('bpe', 90), ('unigram', 43)])
def test_vocabulary_has_the_size_asked_for(tmp_path, model_type, size):
  path = sentencepiece.train_sentencepiece(
    CAPTIONS, tmp_path / 'new' / 't', size, model_type
  )
  assert path == tmp_path / 'new' / 't.model'
  assert sentencepiece.SentencePieceTokenizer(path).vocab_size == size
  assert [p.name for p in path.parent.iterdir()] == ['t.model']


def test_ids_are_the_models_own(tok, model):
  import sentencepiece as spm

  processor = spm.SentencePieceProcessor(model_file=str(model))
  assert tok.encode('A Red fish') == processor.encode('A Red fish')


def test_pieces_spell_the_normalised_text(tok):
  for text in ('A red  FISH', 'läuft über'):
    spelt = ''.join(tok.pieces(tok.encode(text))).replace('\u2581', ' ')
    assert spelt.split() == text.lower().split()


def test_truncation_keeps_the_end(tok):
  row = tok(['a red apple in the blue water ' * 9])[0]
  assert row[-1] == tok.eot_id and (row == tok.eot_id).sum() == 1


@pytest.mark.parametrize('text', ['x' * 1_000_000, '猫 ' * 500_000])
def test_huge_texts_are_bounded(tok, text):
  assert len(tok.encode(text)) <= sentencepiece.MAX_CHARACTERS + 1


def test_training_is_deterministic(tmp_path, model):
  again = sentencepiece.train_sentencepiece(CAPTIONS, tmp_path / 'b', 120)
  assert again.read_bytes() == model.read_bytes()


def test_pickles(tok):
  copy = pickle.loads(pickle.dumps(tok))
  np.testing.assert_array_equal(copy(['a cat']), tok(['a cat']))


def test_by_file_or_folder(model):
  for path in (model, model.parent):
    assert make_tokenizer(str(path)).vocab_size == 120


def test_missing_model(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*'clip'"):
    make_tokenizer(str(tmp_path))


@pytest.mark.parametrize('content', [b'', b'not a model', b'\x00' * 99])
def test_not_a_model(tmp_path, content):
  path = tmp_path / 'bad.model'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='is not a sentencepiece model'):
    sentencepiece.SentencePieceTokenizer(path)


def test_clips_carrier_is_not_a_plain_model():
  with pytest.raises(ValueError, match="name the tokenizer 'clip'"):
    sentencepiece.SentencePieceTokenizer(clip.MODEL_PATH)


@pytest.mark.parametrize(
  ('captions', 'size', 'kind', 'message'),
  [
    ([], 50, 'bpe', 'no captions to train on'),
    (['', ' \n'], 50, 'bpe', 'no captions to train on'),
    (['a cat'] * 9, 500, 'bpe', '9 captions give a vocabulary of at most'),
    (CAPTIONS, 9, 'bpe', 'too small for the characters'),
    (CAPTIONS, 9, 'word', 'model_type must be one of'),
  ],
)
def test_training_errors(tmp_path, captions, size, kind, message):
  with pytest.raises(ValueError, match=message):
    sentencepiece.train_sentencepiece(captions, tmp_path / 't', size, kind)
  assert not (tmp_path / 't.model').exists()


def test_the_sizes_that_errors_name_work(tmp_path):
  with pytest.raises(ValueError, match='at most') as caught:
    sentencepiece.train_sentencepiece(CAPTIONS, tmp_path / 't', 5000)
  most = int(str(caught.value).split('at most ')[1].split(':')[0])
  sentencepiece.train_sentencepiece(CAPTIONS, tmp_path / 't', most)
  with pytest.raises(ValueError, match='at least') as caught:
    sentencepiece.train_sentencepiece(CAPTIONS, tmp_path / 't', 9)
  least = int(str(caught.value).split('at least ')[1])
  sentencepiece.train_sentencepiece(CAPTIONS, tmp_path / 't', least)


def test_errors_of_the_captions_come_through(tmp_path):
  def captions():
    yield 'a cat'
    raise OSError('the disk is gone')

  with pytest.raises(OSError, match='the disk is gone'):
    sentencepiece.train_sentencepiece(captions(), tmp_path / 't', 50)


def test_read_captions(tmp_path):
  text = tmp_path / 'a.txt'
  text.write_text('\ufeffa cat\n\n  a dog \r\nlast', encoding='utf-8')
  assert list(sentencepiece.read_captions(text)) == ['a cat', 'a dog', 'last']
  lines = tmp_path / 'a.jsonl'
  lines.write_text(
    '{"caption": "a cat"}\n\n{"captions": ["a dog", "", "two dogs"]}\n'
  )
  assert list(sentencepiece.read_captions(lines)) == [
    'a cat', 'a dog', 'two dogs'
  ]  # fmt: skip


@pytest.mark.parametrize(
  'line', ['{"caption": 3}', '{"text": "a"}', '[]', '{"captions": "a"}', '3']
)
def test_read_captions_of_another_shape(tmp_path, line):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"caption": "a cat"}\n' + line)
  with pytest.raises(ValueError, match=r'a.jsonl:2: expected an object'):
    list(sentencepiece.read_captions(path))


def test_read_captions_broken_files(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"caption": ')
  with pytest.raises(ValueError, match=r'a.jsonl:1: not JSON'):
    list(sentencepiece.read_captions(path))
  path = tmp_path / 'a.txt'
  path.write_bytes(b'fine\n\xff\xfe\n')
  with pytest.raises(ValueError, match=r'a.txt:2: not UTF-8'):
    list(sentencepiece.read_captions(path))
