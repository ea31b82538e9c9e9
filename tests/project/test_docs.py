"""Documentation is short, and what it names exists."""

import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterable

import pytest

from groupvit_jax import cli

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
  [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/**/*.md'),
    *ROOT.glob('benchmarks/*.md'),
  ]
)
# Words, code and tables included. Research notes have no limit.
LIMITS = {
  'README.md': 600,
  'docs/api.md': 1200,
  'docs/architecture.md': 1500,
  'docs/benchmarks.md': 1200,
  'docs/clip.md': 1200,
  'docs/concepts.md': 1200,
  'docs/data.md': 1200,
  'docs/evaluation.md': 1200,
  'docs/export.md': 1200,
  'docs/faq.md': 1200,
  'docs/index.md': 300,
  'docs/inference.md': 1200,
  'docs/quickstart.md': 1200,
  'docs/reliability.md': 1200,
  'docs/reproduction.md': 1200,
  'docs/samples.md': 1200,
  'docs/serve.md': 1200,
  'docs/scaling.md': 1200,
  'docs/training.md': 1200,
  'docs/troubleshooting.md': 1200,
}
HOW_TO = [page for page in LIMITS if page != 'docs/architecture.md']


def read(page: str | pathlib.Path) -> str:
  return (ROOT / page).read_text()


def commands(
  program: str, pages: Iterable[str | pathlib.Path] = PAGES
) -> list[list[str]]:
  """Arguments of a program's calls in the shell examples of pages."""
  return [
    words
    for page in pages
    for block in re.findall(r'```sh\n(.*?)```', read(page), re.DOTALL)
    for words in calls_in(block, program)
  ]


def calls_in(block: str, program: str = 'groupvit') -> list[list[str]]:
  """Arguments of a program's calls in a shell example."""
  return [
    shlex.split(part, comments=True)[len(program.split()) :]
    for line in block.replace('\\\n', ' ').splitlines()
    for part in line.split(' && ')
    if part.startswith(f'{program} ')
  ]


def test_every_page_a_user_reads_has_a_limit():
  pages = {str(p.relative_to(ROOT)) for p in ROOT.glob('docs/*.md')}
  assert pages | {'README.md'} == set(LIMITS)


@pytest.mark.parametrize('page', LIMITS)
def test_a_page_is_short(page):
  assert len(read(page).split()) <= LIMITS[page]


@pytest.mark.parametrize('page', HOW_TO)
def test_a_how_to_page_begins_with_a_command(page):
  before, _, after = read(page).partition('```sh\n')
  assert after, 'no command'
  assert len(before.split()) < 60 and '\n## ' not in before


def test_links_and_named_files_exist():
  missing = []
  for page in PAGES:
    text = read(page)
    links = re.findall(r'\]\(([^)#\s]+)[^)]*\)', text)
    missing += [
      f'{page.relative_to(ROOT)}: {link}'
      for link in links
      if '://' not in link and not (page.parent / link).exists()
    ]
    named = re.findall(
      r'`((?:groupvit_jax|tests|configs|colabs|benchmarks|docs)/[\w/.]+)`', text
    )
    missing += [
      f'{page.relative_to(ROOT)}: {name}'
      for name in named
      # Research notes name files of other repositories as well.
      if 'research' not in page.parts and not (ROOT / name).exists()
    ]
  assert not missing


def test_commands_are_accepted(capsys):
  """Those of pages, and those that --help shows."""
  calls = commands('groupvit')
  helps = [[name] for name in {words[0] for words in calls} - {'train'}]
  helps += [[], ['tokenizer', 'train'], ['tokenizer', 'show']]
  for words in helps:
    with pytest.raises(SystemExit):
      cli.main([*words, '--help'])
  shown = capsys.readouterr().out.replace('\\\n', ' ').splitlines()
  examples = [line for line in shown if line.startswith('  groupvit ')]
  calls += [shlex.split(line)[1:] for line in examples]
  assert len(calls) > 50
  for words in calls:
    # `train` is in test_configurations_exist.
    if words[0] != 'train' and '--help' not in words:
      cli._parse(words)


def test_one_command_fills_the_address_in(tmp_path):
  (tmp_path / 'colabs').mkdir()
  notebooks = [f'colabs/{path.name}' for path in ROOT.glob('colabs/*.ipynb')]
  for name in ('README.md', *notebooks):
    shutil.copy(ROOT / name, tmp_path / name)
  block = re.search(r'```sh\n(sed .*?)```', read('CONTRIBUTING.md'), re.DOTALL)
  subprocess.run(block[1], shell=True, check=True, cwd=tmp_path)
  for name in notebooks:
    text = (tmp_path / name).read_text()
    assert '!git clone -q https://github.com/OWNER/NAME groupvit' in text
  text = (tmp_path / 'README.md').read_text()
  assert 'ADDRESS' not in text and '<!--' not in text
  badges = re.findall(r'google.com/github/OWNER/NAME/blob/main/([^)]*)', text)
  assert sorted(badges) == sorted(notebooks)


def test_extras_exist():
  with open(ROOT / 'pyproject.toml', 'rb') as file:
    extras = tomllib.load(file)['project']['optional-dependencies']
  named = {
    extra
    for page in PAGES
    for text in re.findall(r'(?:groupvit_jax|\.)\[([\w,]+)\]', read(page))
    for extra in text.split(',')
  }
  assert len(named) > 5 and not named - set(extras)


def test_configurations_exist():
  arguments = {
    word.removeprefix('--config=').partition(':')[::2]
    for program in ('python -m groupvit_jax.main', 'groupvit train')
    for words in commands(program)
    for word in words
    if word.startswith('--config=')
  }
  assert len(arguments) > 3
  for file, argument in sorted(arguments):
    runpy.run_path(str(ROOT / file))['get_config'](argument or None)
