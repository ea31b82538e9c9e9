"""A model from images and words to labels, against the rules spelled out.

The references run one unpadded image at a time, in `plain_segmentation`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import groupvit_jax
from groupvit_jax import errors, inference
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.data import images as images_lib
from groupvit_jax.evaluation import labelling, resize, scoring, zero_shot
from groupvit_jax.evaluation import regions as regions_lib
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.text import clip as clip_lib
from groupvit_jax.text import prompts

NAMES = ['dog', 'grass', 'sky', 'old boat', 'red house', 'sea', 'man']
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)


@pytest.fixture(scope='module')
def model(tiny_inference):
  preprocessing = {'mean': MEAN, 'std': STD, 'short_side': 32}
  return inference.Model(tiny_inference.source(preprocessing=preprocessing))


def photo(height, width, seed=0):
  """A smooth image with some structure."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
  image = Image.fromarray(coarse).resize((width, height), Image.NEAREST)
  noise = rng.integers(-20, 20, (height, width, 3))
  return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


@functools.cache
def text_of(model, names=tuple(NAMES), templates=prompts.SIMPLE):
  return zero_shot.class_embeddings(
    lambda variables, tokens: model.module.apply(
      variables, tokens, normalize=False, method='encode_text'
    ),
    model.variables,
    clip_lib.ClipTokenizer(),
    names,
    templates,
  )


@functools.cache
def encoder_of(model):
  return jax.jit(
    lambda *args: model.module.apply(*args, method='encode_regions')
  )


def regions_of(model, scaled):
  pixels = (scaled[None] / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
  return encoder_of(model)(model.variables, jnp.float32(pixels))


def scaled_size(image, short=32):
  scale = short / min(image.shape[:2])
  return tuple(int(side * scale + 0.5) for side in image.shape[:2])


def reference(plain_segmentation, model, image, config):
  """Labels and scores of the image alone and unpadded."""
  size = scaled_size(image)
  regions = regions_of(model, resize.resize_image(image, size))
  scores = plain_segmentation.pixel_scores(
    regions, text_of(model), model.logit_scale, size, config
  )
  return plain_segmentation.resized(np.float32(scores), image.shape[:2])


def check(found, scores, wrong=0.002):
  """Labels and scores of a result are those of the reference, but for ties."""
  labels = scores.argmax(-1)
  assert found.labels.dtype == np.int32
  assert found.labels.shape == labels.shape
  np.testing.assert_array_equal(found.labels, found.scores.argmax(0))
  assert (found.labels != labels).mean() <= wrong
  close = abs(found.scores.transpose(1, 2, 0) - scores).max(-1) < 1e-3
  assert close.mean() >= 1 - wrong


@pytest.mark.parametrize(
  'config',
  [
    inference.RELEASED,
    SegmentConfig(),
    SegmentConfig(one_hot=False, background_threshold=0.07, top_k=None),
    SegmentConfig(group_softmax=False, scale=5, top_k=2),
  ],
  ids=['released', 'no background', 'soft', 'other options'],
)
def test_a_padded_image_is_segmented_like_the_unpadded_one(
  plain_segmentation, model, config
):
  classes = set()
  for image in (photo(40, 57), photo(61, 44, 1)):
    found = model.segment(image, NAMES, config)
    check(found, reference(plain_segmentation, model, image, config))
    classes |= set(found.areas())
  assert len(classes) > 1, 'a test without borders tests little'


def test_the_models_own_gate_is_used_unless_the_caller_says(
  tiny_inference, model
):
  preprocessing = tiny_inference.source().preprocessing | {'top_k': None}
  own = inference.Model(tiny_inference.source(preprocessing=preprocessing))
  assert model.config == inference.RELEASED
  assert own.config == dataclasses.replace(inference.RELEASED, top_k=None)
  image = photo(40, 57)
  open_gate = model.segment(image, NAMES, own.config)
  closed = model.segment(image, NAMES)
  assert not np.array_equal(open_gate.scores, closed.scores)
  np.testing.assert_array_equal(
    own.segment(image, NAMES).scores, open_gate.scores
  )
  np.testing.assert_array_equal(
    own.segment(image, NAMES, inference.RELEASED).scores, closed.scores
  )


def test_regrouped_regions_are_asked_again(tiny_inference, model):
  own = tiny_inference.source().preprocessing | {
    'regroup': 'kmeans',
    'regroup_number': 5,
  }
  own = inference.Model(tiny_inference.source(preprocessing=own))
  image = photo(40, 57)
  regions = own.encode(image)
  found = regions.segment(NAMES)
  np.testing.assert_array_equal(
    found.scores, own.segment(image, NAMES, own.config).scores
  )
  *learned, remade = found.groups
  assert len(learned) == len(model.segment(image, NAMES).groups)
  assert len(np.unique(remade)) > 1 and remade.max() < 5
  # Both are shown without class names, and a result can be asked again.
  for before, after in zip(regions.groups, found.groups, strict=True):
    np.testing.assert_array_equal(before, after)
  other = dataclasses.replace(own.config, regroup_number=3, top_k=1)
  for answer in found, regions.segment(NAMES, other):
    np.testing.assert_array_equal(
      answer.encoded.segment(NAMES).scores, answer.scores
    )
  # The same regions without regrouping are the released answer; those that
  # were encoded for that have no tokens to regroup.
  np.testing.assert_array_equal(
    regions.segment(NAMES, inference.RELEASED).scores,
    model.segment(image, NAMES).scores,
  )
  with pytest.raises(ValueError, match='no token embeddings'):
    model.encode(image).segment(NAMES, own.config)


def test_sliding_windows_are_averaged(plain_segmentation, model):
  config = SegmentConfig(mode='slide', background_threshold=0.9)
  image = photo(40, 70)
  height, width = size = scaled_size(image)
  scaled = resize.resize_image(image, size)
  text = text_of(model)
  total = np.zeros((height, width, len(NAMES) + 1), np.float32)
  count = np.zeros((height, width, 1), np.float32)
  for left in (0, 16, width - 32):
    regions = regions_of(model, scaled[:, left : left + 32])
    scores = plain_segmentation.pixel_scores(
      regions, text, model.logit_scale, (32, 32), config
    )
    total[:, left : left + 32] += scores
    count[:, left : left + 32] += 1
  scores = plain_segmentation.resized(total / count, (40, 70))
  found = model.segment(image, NAMES, config)
  assert found.encoded.regions.places.shape == (1, 3, 4)
  check(found, scores)
  assert [g.shape for g in found.groups] == [(40, 70)] * 2


def test_many_images_are_segmented_like_each_alone(model):
  sizes = [(40, 57), (61, 44), (33, 33), (40, 57), (41, 56)]
  images = [photo(*size, seed) for seed, size in enumerate(sizes)]
  together = model.segment(images, NAMES, batch_size=2)
  assert [seg.labels.shape for seg in together] == sizes
  for image, seg in zip(images, together, strict=True):
    alone = model.segment(image, NAMES)
    assert (seg.labels == alone.labels).mean() > 0.998
    for a, b in zip(seg.groups, alone.groups, strict=True):
      assert (a == b).mean() > 0.998
    np.testing.assert_array_equal(seg.image, image)


def test_nothing_compiles_for_another_size_or_vocabulary(tiny_inference):
  model = inference.Model(tiny_inference.source())

  def compiled():
    programs = scoring._score, labelling._label, regions_lib._encode
    return [program._cache_size() for program in programs]

  def labels(*arguments):
    return model.segment(*arguments).labels

  labels(photo(40, 57), ['one', 'two'], SegmentConfig(background_threshold=0.1))
  before = compiled()
  for i, width in enumerate((56, 57, 58, 59)):
    names = [f'thing {i} {j}' for j in range(3 + i)]
    config = SegmentConfig(background_threshold=0.1 * i)
    labels(photo(40, width), names, config)
  assert compiled() == before
  assert model._text._cache_size() == 1


def test_regions_answer_again_without_the_network(model, monkeypatch):
  images = [photo(40, 57), photo(57, 40, 1)]
  config = SegmentConfig(mode='slide', background_threshold=0.1)
  encoded = model.encode(images, config)
  monkeypatch.setattr(regions_lib, 'encode', None)
  assert repr(encoded[0]) == 'ImageRegions(57 x 40)'
  kept = [regions.segment(NAMES) for regions in encoded]
  few = encoded[0].segment(NAMES[:3], background=False)
  plain = dataclasses.replace(config, top_k=2, constant_background=True)
  other = encoded[0].segment(NAMES, plain)
  with pytest.raises(ValueError, match='encode it again'):
    encoded[0].segment(NAMES, SegmentConfig())
  monkeypatch.undo()
  for one, two in (
    (kept, model.segment(images, NAMES, config)),
    ([few], [model.segment(images[0], NAMES[:3], config, background=False)]),
    ([other], [model.segment(images[0], NAMES, plain)]),
  ):
    for a, b in zip(one, two, strict=True):
      assert a.names == b.names
      np.testing.assert_array_equal(a.labels, b.labels)
      np.testing.assert_array_equal(a.scores, b.scores)


def test_groups_are_those_of_the_stages(plain_segmentation, model):
  image = photo(48, 48)
  found = model.segment(image, NAMES)
  regions = regions_of(model, resize.resize_image(image, (32, 32)))
  for groups, maps in zip(found.groups, regions['stages'], strict=True):
    expected = plain_segmentation.resized(maps[0], (48, 48)).argmax(-1)
    assert (groups == expected).mean() > 0.998


def test_background_comes_from_config_or_argument(model):
  image = photo(33, 33)
  found = model.segment(image, NAMES)
  assert found.names == ('background', *NAMES) and found.background
  assert found.scores.shape == (8, 33, 33)
  several = model.segment(image, NAMES, templates='subset')
  assert (several.scores != found.scores).any()
  for other in (
    model.segment(image, NAMES, SegmentConfig()),
    model.segment(image, NAMES, background=False),
  ):
    assert other.names == tuple(NAMES) and not other.background
  again = model.segment(image, ['background', *NAMES])
  np.testing.assert_array_equal(again.labels, found.labels)
  low = model.segment(image, NAMES, SegmentConfig(), background=True)
  np.testing.assert_array_equal(low.labels, found.labels)


def test_synonyms_are_one_class(model):
  image = photo(33, 33)
  config = SegmentConfig(top_k=None)
  plain = model.segment(image, NAMES, config)
  joined = model.segment(image, ['dog|grass', *NAMES[2:]], config)
  assert joined.names == ('dog', *NAMES[2:])
  # Beside the others, a class gains what its second name has over its first.
  rest = joined.scores[0] / joined.scores.sum(0)
  single = model.segment(image, ['dog', *NAMES[2:]], config)
  assert (rest >= single.scores[0] / single.scores.sum(0) - 1e-6).all()
  twice = model.segment(image, ['dog|Dog.', *NAMES[1:]], config)
  assert twice.scores.shape == plain.scores.shape


def test_classes_of_an_image(model):
  images = [photo(40, 57), photo(57, 40, 1)]
  found = model.classify(images, NAMES, templates='simple')
  vectors = model.encode_image(images)
  text = np.asarray(text_of(model))
  logits = model.logit_scale * vectors @ text.T
  odds = np.asarray(jax.nn.softmax(logits, -1))
  for row, classes in zip(odds, found, strict=True):
    assert list(classes) == [NAMES[i] for i in np.argsort(-row)]
    assert sum(classes.values()) == pytest.approx(1)
    for i, name in enumerate(NAMES):
      assert classes[name] == pytest.approx(row[i], abs=1e-4)
  released = model.classify(images[0], NAMES, templates='subset')
  assert model.classify(images[0], NAMES) == pytest.approx(released, abs=1e-5)


def test_prompts_are_averaged_as_they_are_or_as_unit_vectors(model):
  image, templates = photo(40, 57), ['a photo of a {}.', '{}']
  raw, unit = (
    model.classify(image, NAMES, templates=templates, prompt_average=average)
    for average in ('raw', 'unit')
  )
  assert raw == model.classify(image, NAMES, templates=templates) != unit


def test_embeddings_are_unit_vectors(model, tmp_path):
  images = [photo(40, 57), photo(16, 16), photo(57, 40, 1)]
  vectors = model.encode_image(images)
  assert vectors.shape == (3, 12) and vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)
  path = tmp_path / 'photo.png'
  Image.fromarray(images[0]).save(path)
  np.testing.assert_allclose(model.encode_image(path), vectors[0], atol=1e-5)
  texts = model.encode_text(['a dog', 'the sea at night'])
  assert texts.shape == (2, 12)
  np.testing.assert_allclose(np.linalg.norm(texts, axis=-1), 1, atol=1e-5)
  np.testing.assert_allclose(model.encode_text('a dog'), texts[0], atol=1e-6)


def test_rounded_operands_change_little(tiny_inference, model):
  preprocessing = {'mean': MEAN, 'std': STD, 'short_side': 32}
  source = tiny_inference.source(preprocessing=preprocessing)
  rounded = inference.Model(source, matmul_operands='bfloat16')
  exact, near = (m.encode_text('a dog') for m in (model, rounded))
  # Of images a token may change its group.
  assert 0.99 < exact @ near < 1 - 1e-7
  auto = inference.Model(source, matmul_operands='auto').module
  assert auto.matmul_operands in ('float32', 'bfloat16')


def test_pixels_are_encoded_as_they_are(model):
  raw = np.stack([photo(16, 16, seed) for seed in range(3)])
  normalised = (raw / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
  encode = jax.jit(
    lambda *args: model.module.apply(*args, method='encode_image')
  )
  expected = encode(model.variables, jnp.asarray(normalised))
  for pixels in (raw, normalised, jnp.asarray(normalised)):
    found = model.encode_pixels(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-5)
  with pytest.raises(ValueError, match=r'pixels are \[b, h, w, 3\], not'):
    model.encode_pixels(raw[0])


def test_the_crop_is_that_of_the_released_evaluation():
  image = photo(300, 400)
  small = Image.fromarray(image).resize((341, 256), Image.BILINEAR)
  expected = np.asarray(small)[16:240, 58:282]
  np.testing.assert_array_equal(images_lib.crop(image, (224, 224)), expected)
  clip = images_lib.crop(image, (224, 224), clip=True)
  small = Image.fromarray(image).resize((298, 224), Image.BICUBIC)
  np.testing.assert_array_equal(clip, np.asarray(small)[:, 37:261])


def test_errors_name_the_image(model, tmp_path):
  bad = tmp_path / 'bad.jpg'
  bad.write_bytes(b'no image')
  with pytest.raises(inference.ImageError, match=r'bad\.jpg is not an image'):
    model.segment([photo(33, 33), bad], NAMES)
  with pytest.raises(inference.ImageError, match='image 1 of the list is 1 x'):
    model.segment([photo(33, 33), photo(1, 1)], NAMES)
  with pytest.raises(inference.LabelError, match='is empty'):
    model.segment(photo(33, 33), [])
  for ask in (
    functools.partial(model.segment, names=NAMES),
    functools.partial(model.classify, names=NAMES),
    model.encode_image,
  ):
    with pytest.raises(ValueError, match='batch_size must be at least 1'):
      ask([photo(33, 33)], batch_size=0)


def test_a_model_without_groups_says_what_it_can_do(tiny_inference):
  model = inference.Model(tiny_inference.vit())
  with pytest.raises(errors.ModelError, match='does not group pixels'):
    model.segment(photo(33, 33), NAMES)
  assert set(model.classify(photo(33, 33), NAMES)) == set(NAMES)


def test_load_is_at_the_package_and_keeps_compiled_programs(
  tiny_inference, model, monkeypatch, tmp_path
):
  folder = tmp_path / 'model'
  model_folder.write(folder, tiny_inference.source())
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  try:
    jax.config.update('jax_compilation_cache_dir', None)
    loaded = groupvit_jax.load(folder)
    cache = tmp_path / 'groupvit_jax' / 'compiled'
    assert jax.config.jax_compilation_cache_dir == str(cache)
    pixels = photo(16, 16)[None]
    np.testing.assert_allclose(
      loaded.encode_pixels(pixels), model.encode_pixels(pixels), atol=1e-5
    )
    assert list(cache.iterdir()), 'a program should have been kept'
    # A folder that the user gave JAX stays.
    jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'own'))
    groupvit_jax.load(folder)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'own')
    jax.config.update('jax_compilation_cache_dir', None)
    groupvit_jax.load(folder, compilation_cache=False)
    assert jax.config.jax_compilation_cache_dir is None
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  with pytest.raises(errors.ModelError, match='there is no'):
    groupvit_jax.load(tmp_path / 'none')
  with pytest.raises(AttributeError, match='no attribute'):
    groupvit_jax.lode  # noqa: B018


def test_entropy_tells_an_unsure_image(plain_segmentation, model):
  """That of the groups' softmax, by area; near 1 if classes are alike."""
  image = photo(32, 32)
  found = model.segment(image, NAMES)
  regions = regions_of(model, image)
  odds = plain_segmentation.softmax(
    model.logit_scale * np.asarray(regions['embeddings'][0] @ text_of(model).T)
  )
  areas = np.asarray(regions['stages'][-1][0]).mean((0, 1))
  wanted = -areas @ (odds * np.log(odds)).sum(-1) / np.log(len(NAMES))
  assert found.entropy == pytest.approx(wanted, abs=1e-3)
  assert found.unsure == (wanted > 0.35)
  with pytest.warns(UserWarning, match='dog is the only class'):
    assert model.segment(image, ['dog']).entropy == 0


def test_words_that_the_model_never_met_are_told(tiny_inference):
  metadata = tiny_inference.source().metadata | {'words': ['a lawn', 'cat']}
  model = inference.Model(tiny_inference.source(metadata=metadata))
  with pytest.warns(UserWarning, match='no caption .* named dog, sky'):
    model.classify(photo(33, 33), ['dog', 'grass|Lawn', 'sky', 'cat'])


def test_results_in_figures_and_images(model):
  image = photo(40, 57)
  found = model.segment(image, NAMES)
  assert sum(found.areas().values()) == 40 * 57
  for name, (x, y, width, height) in found.boxes().items():
    where = found.labels == found.names.index(name)
    assert where.sum() == found.areas()[name]
    inside = where[y : y + height, x : x + width]
    assert inside.sum() == where.sum()
    assert inside[0].any() and inside[-1].any()
    assert inside[:, 0].any() and inside[:, -1].any()
    mean = found.scores[found.names.index(name)][where].mean()
    assert found.mean_scores()[name] == pytest.approx(mean, abs=1e-5)
  mask = found.mask()
  assert mask.mode == 'P'
  np.testing.assert_array_equal(np.asarray(mask), found.labels)
  stages = [found.groups_overlay(i) for i in range(len(found.groups))]
  for shown in (found.overlay(), found.pred(), *stages):
    assert shown.mode == 'RGB' and shown.width >= 57
  assert model.encode(image).groups_overlay() == stages[-1] != stages[0]
  assert found.labels is found.labels  # computed once
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.names = ()
  assert repr(found).startswith('Segmentation(57 x 40, names=')
