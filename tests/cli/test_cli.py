"""The `groupvit` command: what it prints, and how it fails."""

import functools
import os
import pathlib
import subprocess
import sys

import pytest

from groupvit_jax import cli
from groupvit_jax.text.sentencepiece import SentencePieceTokenizer

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def captions(tmp_path):
  path = tmp_path / 'captions.txt'
  path.write_text('a red apple\ntwo fish on the sand\na dog\n' * 5)
  return path


def error_line(capsys) -> str:
  """The one line of a failure."""
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert lines[0].startswith('groupvit: error: ')
  return lines[0]


def train(captions, out, *more, size=40):
  return cli.main(
    ['tokenizer', 'train', '--captions', str(captions), '--out', str(out)]
    + ['--vocab-size', str(size), *more]
  )


def test_show(capsys):
  assert cli.main(['tokenizer', 'show', 'a photo of a cat']) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[1:3] == ['   320  a</w>', '  1125  photo</w>']
  assert out[-1] == '7 of 77 ids; vocabulary 49408'


def test_show_says_what_is_cut(capsys):
  args = ['tokenizer', 'show', 'one two three four', '--context-length', '4']
  assert cli.main(args) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[-1] == '4 of 4 ids, 2 more cut off; vocabulary 49408'


@pytest.mark.parametrize('model_type', ['bpe', 'unigram'])
def test_train_then_show(capsys, tmp_path, captions, model_type):
  lines = tmp_path / 'more.jsonl'
  lines.write_text('{"captions": ["seventeen cats", "a giraffe"]}\n' * 5)
  out = tmp_path / 'tok'
  args = [str(lines), '--model-type', model_type, '--vocab-size', '26']
  argv = ['tokenizer', 'train', '--out', str(out), '--captions', str(captions)]
  assert cli.main(argv + args) == 0
  assert '26 ids' in capsys.readouterr().out
  assert SentencePieceTokenizer(out).vocab_size == 26
  show = ['tokenizer', 'show', 'A Giraffe', '--tokenizer', str(out)]
  assert cli.main(show) == 0
  assert 'vocabulary 26' in capsys.readouterr().out


def test_train_keeps_what_is_there(capsys, tmp_path, captions):
  assert train(captions, tmp_path / 'tok') == 0
  model = tmp_path / 'tok' / 'tokenizer.model'
  before = model.read_bytes()
  capsys.readouterr()
  assert train(captions, tmp_path / 'tok', size=30) == 1
  assert 'replace it with --overwrite' in error_line(capsys)
  assert model.read_bytes() == before
  assert train(captions, tmp_path / 'tok', '--overwrite', size=30) == 0
  assert model.read_bytes() != before


@pytest.mark.parametrize(
  ('content', 'size', 'reason'),
  [
    (None, 40, 'captions.jsonl: No such file'),
    ('\n\n', 40, 'no captions'),
    ('{"caption": "a"}\n{"caption": 1}\n', 40, 'captions.jsonl:2: expected an'),
    ('{"caption": "a red apple"}\n' * 9, 50_000, 'ask for less'),
  ],
)
def test_captions_that_make_no_tokenizer(
  capsys, tmp_path, content, size, reason
):
  path = tmp_path / 'captions.jsonl'
  if content is not None:
    path.write_text(content)
  assert train(path, tmp_path / 'tok', size=size) == 1
  assert reason in error_line(capsys)


def test_unwritable_folder(capsys, tmp_path, captions):
  (tmp_path / 'file').write_text('in the way')
  assert train(captions, tmp_path / 'file' / 'tok') == 1
  assert 'Not a directory' in error_line(capsys)


def test_unknown_tokenizer(capsys):
  args = ['tokenizer', 'show', 'a', '--tokenizer', 'nothing/here']
  assert cli.main(args) == 1
  assert "no tokenizer at nothing/here: give 'clip'" in error_line(capsys)


def test_interrupt(capsys, monkeypatch, tmp_path, captions):
  def stop(path):
    raise KeyboardInterrupt
    yield path

  monkeypatch.setattr('groupvit_jax.text.sentencepiece.read_captions', stop)
  assert train(captions, tmp_path / 'tok') == 130
  assert error_line(capsys) == 'groupvit: error: interrupted'


@pytest.mark.parametrize(
  'argv',
  [
    ['fly'],
    ['tokenizer'],
    ['tokenizer', 'show'],
    ['tokenizer', 'show', 'a', '--context-length', 'x'],
    ['tokenizer', 'train', '--captions', 'a', '--out', 'b'],
    ['tokenizer', 'train', '--captions', 'a', '--out', 'b']
    + ['--vocab-size', '0'],
  ],
)
def test_wrong_command_lines(capsys, argv):
  with pytest.raises(SystemExit) as exit_info:
    cli.main(argv)
  assert exit_info.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('groupvit') and 'error: ' in line
  assert line.endswith(' --help`')


def test_an_unknown_option_names_the_help_of_the_sub_command(capsys):
  with pytest.raises(SystemExit):
    cli.main(['info', 'my_model', '--jsn'])
  assert 'see `groupvit info --help`' in capsys.readouterr().err


def test_train_is_the_training_program_and_tells_variants_and_options():
  command = [sys.executable, '-m', 'groupvit_jax', 'train']
  run = functools.partial(
    subprocess.run, capture_output=True, text=True, cwd=ROOT
  )
  told = run([*command, '--help'])
  assert told.returncode == 0, told.stderr
  for part in ('--workdir', '  gcc_yfcc  ', 'examples  data.train_examples'):
    assert part in told.stdout
  assert run(command).returncode == 2
  assert 'usage: groupvit' in run(command[:-1]).stdout


def test_as_a_process():
  """Exit code, no stack trace, a closed pipe, and a quick start."""
  code = (
    'import sys; from groupvit_jax import cli; code = cli.main(sys.argv[1:]);'
    'slow = {"jax", "tensorflow", "torch", "textblob"} & set(sys.modules);'
    'slow |= {"PIL", "tqdm"} & set(sys.modules);'
    'assert not slow, slow; sys.exit(code)'
  )

  def run(*args, **kwargs):
    return subprocess.run(
      [sys.executable, '-c', code, *args],
      env={**os.environ, 'PYTHONPATH': str(ROOT)},
      stderr=subprocess.PIPE,
      text=True,
      **kwargs,
    )

  assert run('--help', stdout=subprocess.DEVNULL).returncode == 0
  bad = run('tokenizer', 'show', 'a', '--tokenizer', 'nowhere')
  assert bad.returncode == 1
  assert len(bad.stderr.splitlines()) == 1
  reading, writing = os.pipe()
  os.close(reading)
  piped = run('tokenizer', 'show', 'a cat', stdout=writing)
  os.close(writing)
  assert piped.returncode == 0
  assert piped.stderr == ''
