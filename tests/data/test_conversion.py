"""Conversion: tables and shards in, checked pairs out, whatever happens."""

import csv
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from groupvit_jax import cli, errors
from groupvit_jax.data import conversion, images, inspection, tables, writers

Plan = conversion.Plan


@pytest.fixture
def photos(tmp_path, make):
  """A folder of images with a table: good, large, turned, rotten, double."""
  folder = tmp_path / 'photos'
  folder.mkdir()
  turned = Image.Exif()
  turned[0x0112] = 6
  contents = {
    'small.jpg': make.encode(make.noise(0)),
    'large.png': make.encode(make.noise(1, 200, 300), 'PNG'),
    'turned.jpg': make.encode(make.noise(2, 20, 30), exif=turned),
    'rotten.jpg': make.encode(make.noise(3))[:200],
    'double.jpg': make.encode(make.noise(0)),
    'silent.jpg': make.encode(make.noise(4)),
  }
  rows = []
  for name, data in contents.items():
    (folder / name).write_bytes(data)
    rows.append((name, ' ' if name == 'silent.jpg' else 'a photo'))
  rows.append(('absent.jpg', 'a photo'))
  with (tmp_path / 'table.csv').open('w') as file:
    csv.writer(file).writerows([('file_name', 'caption'), *rows])
  return tmp_path / 'table.csv'


def plan_of(table, tmp_path, **options):
  options = {'images': str(table.parent / 'photos'), 'shard_size': 3} | options
  return Plan((str(table),), str(tmp_path / 'out'), **options)


def run(plan, **options):
  return conversion.convert(plan, workers=1, **options)


@pytest.mark.parametrize('form', writers.FORMATS)
def test_a_table_becomes_shards(photos, tmp_path, form):
  if form == 'array_record':
    pytest.importorskip('array_record')
  if form == 'tfrecord':
    pytest.importorskip('tensorflow')
  plan = plan_of(photos, tmp_path, format=form, short_side=100)
  manifest = run(plan)
  assert manifest['samples'] == 3
  assert manifest['dropped'] == {
    'caption': 1,
    'duplicate': 1,
    'image_absent': 1,
    'image_damaged': 1,
  }
  written = {f'00000.{form}', 'dropped.jsonl', 'manifest.json'}
  assert set(os.listdir(plan.out)) == written
  source = tables.open_source([plan.out])
  assert len(source) == 3
  sizes = [images.decode(source[i]['image']).size for i in range(3)]
  assert sizes == [(48, 40), (150, 100), (20, 30)]
  # What needs no change keeps its bytes.
  small = (photos.parent / 'photos' / 'small.jpg').read_bytes()
  assert source[0]['image'] == small
  with open(f'{plan.out}/dropped.jsonl') as file:
    dropped = [json.loads(line) for line in file]
  assert dropped[0]['sample'].endswith('row 4 (rotten.jpg)')
  assert {item['reason'] for item in dropped} == manifest['dropped'].keys()
  assert run(plan) == manifest


def test_a_stopped_conversion_goes_on(photos, tmp_path, monkeypatch):
  whole = run(plan_of(photos, tmp_path / 'whole', shard_size=2))
  plan = plan_of(photos, tmp_path, shard_size=2)
  write, written = writers.write_shard, []

  def dies(folder, name, pairs):
    if written:
      next(iter(pairs))
      raise KeyboardInterrupt
    written.append(name)
    return write(folder, name, pairs)

  monkeypatch.setattr(writers, 'write_shard', dies)
  with pytest.raises(KeyboardInterrupt):
    run(plan)
  monkeypatch.setattr(
    writers,
    'write_shard',
    lambda folder, name, pairs: (
      written.append(name) or write(folder, name, pairs)
    ),
  )
  assert run(plan)['shards'] == whole['shards']
  assert written == ['00000.tar', '00001.tar']  # each once
  assert not [name for name in os.listdir(plan.out) if name.endswith('.part')]
  other = plan_of(photos, tmp_path, short_side=8)
  with pytest.raises(errors.SourceError, match='holds the result of other'):
    run(other)
  assert run(other, overwrite=True)['samples'] == whole['samples']


def test_processes_and_order_change_no_pair(tmp_path, make):
  for shard in range(2):
    make.shard(tmp_path / f'{shard}.tar', 10 * shard, 10)
  plans = [
    Plan((str(tmp_path / '*.tar'),), str(tmp_path / name), shard_size=6, **more)
    for name, more in (('a', {}), ('b', {}), ('c', {'shuffle': 1}))
  ]
  whole = run(plans[0])
  both = conversion.convert(plans[1], workers=2)
  assert both['shards'] == whole['shards'] and len(whole['shards']) == 4

  def captions(plan):
    source = tables.open_source([plan.out])
    return [bytes(source[i]['caption']).decode() for i in range(len(source))]

  run(plans[2])
  ordered, shuffled = captions(plans[0]), captions(plans[2])
  assert ordered == [f'caption {i}' for i in range(20)] != shuffled
  assert sorted(shuffled) == sorted(ordered)


def test_several_captions_and_other_columns(tmp_path, make):
  (tmp_path / 'x.png').write_bytes(make.encode(make.plain(9), 'PNG'))
  table = tmp_path / 't.jsonl'
  row = {'photo': 'x.png', 'said': ['one', 'two']}
  table.write_text(json.dumps(row) + '\n')
  with pytest.raises(ValueError, match='no column .*--image-column'):
    tables.open_source([str(table)])
  columns = (('caption', 'said'), ('image', 'photo'))
  for form in ('tar', 'array_record'):
    if form == 'array_record':
      pytest.importorskip('array_record')
    out = str(tmp_path / form)
    run(Plan((str(table),), out, form, columns=columns))
    sample = tables.open_source([out])[0]
    said = [t if isinstance(t, str) else t.decode() for t in sample['caption']]
    assert said == ['one', 'two'] and make.color(sample) == 9


def test_parquet_of_the_hub(tmp_path, make):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  rows = [
    {
      'image': {'bytes': make.encode(make.plain(i)), 'path': None},
      'text': f'{i}',
    }
    for i in range(7)
  ]
  path = tmp_path / 'train-00000-of-00001.parquet'
  parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
  source = tables.open_source([str(path)])
  assert [make.color(source[i]) for i in range(7)] == list(range(7))
  assert source[6]['caption'] == '6' and source.identity()['samples'] == 7


def test_a_full_disk_leaves_no_part(photos, tmp_path, monkeypatch):
  def full(path, pairs):
    raise OSError(28, 'No space left on device')

  monkeypatch.setitem(writers._WRITERS, 'tar', full)
  plan = plan_of(photos, tmp_path)
  with pytest.raises(OSError, match='No space left'):
    run(plan)
  assert os.listdir(plan.out) == ['.progress']


def test_conversion_to_an_address(photos, tmp_path):
  fsspec = pytest.importorskip('fsspec')
  out = 'memory:///converted'
  plan = Plan((str(photos),), out, images=str(photos.parent / 'photos'))
  manifest = run(plan)
  assert manifest['samples'] == 4 - 1 and run(plan) == manifest
  fs = fsspec.filesystem('memory')
  assert sorted(fs.ls('/converted', detail=False)) == [
    '/converted/00000.tar',
    '/converted/dropped.jsonl',
    '/converted/manifest.json',
  ]
  fs.rm('/converted', recursive=True)


def test_beam_makes_the_same_shards(photos, tmp_path):
  pytest.importorskip('apache_beam')
  from groupvit_jax.data import beam

  ours = run(plan_of(photos, tmp_path / 'ours'))
  theirs = beam.convert(plan_of(photos, tmp_path / 'theirs'))
  assert theirs == ours


def test_inspection_counts_what_is_there(photos):
  source = tables.open_source([str(photos)], images=photos.parent / 'photos')
  found = inspection.inspect(source)
  assert found.total == found.looked == 7
  assert found.bad == {'image_damaged': 1, 'caption': 1, 'image_absent': 1}
  assert found.near_duplicates == 1 and found.nouns == [('photo', 4)]
  figures = found.figures()
  assert figures['short_side'][1] == 40 and figures['words_per_caption'][1] == 2
  assert found.sheet.shape == (1024, 1536, 3) and found.sheet.min() < 255


def test_near_duplicates_survive_scaling_and_compression(make):
  scene = np.asarray(
    Image.fromarray(make.noise(0, 6, 8)).resize((320, 240), Image.BICUBIC)
  )
  versions = [
    Image.fromarray(scene),
    Image.fromarray(scene).resize((160, 120)),
    images.decode(make.encode(scene, quality=30)),
    Image.fromarray(make.noise(1, 6, 8)).resize((320, 240), Image.BICUBIC),
  ]
  hashes = np.array(list(map(inspection.difference_hash, versions)), np.uint64)
  found = inspection.near_duplicates(hashes)
  assert found.tolist() == [False, True, True, False]


def test_the_commands(photos, tmp_path, capsys):
  arguments = [str(photos), '--images', str(photos.parent / 'photos')]
  out = str(tmp_path / 'out')
  assert cli.main(['data', 'convert', *arguments, out, '--workers', '1']) == 0
  shown = capsys.readouterr().out
  assert f'{out}: 3 pairs in 1 shards' in shown
  assert '1 dropped: duplicate' in shown
  report = str(tmp_path / 'report')
  assert cli.main(['data', 'inspect', out, '--out', report]) == 0
  assert re.search('pairs: 3\n(.*\n)*nouns: photo 3', capsys.readouterr().out)
  with Image.open(f'{report}/contact_sheet.png') as sheet:
    assert sheet.size == (1536, 1024)
  for absent, what in (('absent.csv', 'tables'), ('absent/*.tar', 'shards')):
    assert cli.main(['data', 'convert', absent, out]) == 1
    error = capsys.readouterr().err
    assert f'{absent}: there are no such {what}' in error
    assert error.count('\n') == 1
