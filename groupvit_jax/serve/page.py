"""The page: an image, words, and what the model sees, with Gradio.

Sliders and other words ask the encoded image again, without a second pass.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from PIL import Image

from groupvit_jax import scenes
from groupvit_jax.inference import Segmentation, text
from groupvit_jax.serve.service import Refusal, Service
from groupvit_jax.viz import colours

_EXAMPLES = (
  (0, 'fish,apple,bird,ball,gravel'),
  (7, 'starfish,fish,flower,sand'),
)
_SIDE = 256  # pixels of a drawn example
_KEPT = 3600  # seconds that files of visitors stay
# Gradio's own rule for the mouse over an image makes all masks equally pale.
_CSS = """
#classes .mask.active { opacity: 0.65 !important; }
#classes .mask.inactive { opacity: 0.15 !important; }
"""


def mount(app: Any, service: Service) -> Any:
  """Adds the page to a FastAPI application, at /."""
  import gradio as gr  # pyright: ignore[reportMissingImports]
  from gradio import themes  # pyright: ignore[reportMissingImports]

  blocks = _build(gr, service)
  blocks.queue(max_size=service.limits.waiting, api_open=False)
  return gr.mount_gradio_app(
    app,
    blocks,
    path='/',
    max_file_size=int(service.limits.megabytes * 1e6),
    show_error=True,
    footer_links=['gradio'],
    css=_CSS,
    ssr_mode=False,
    theme=themes.Base(font=['system-ui', 'sans-serif']),
    js=pathlib.Path(__file__).with_name('point.js').read_text(),
  )


def _build(gr: Any, service: Service) -> Any:
  names = list(service.models)
  # Those of the captions, if they were few.
  known = ','.join(service.models[names[0]].metadata.get('words', ()))

  def answer(image, words, model, background, top_k, request):
    if image is None:
      return None, '', []
    client = request.client.host if request and request.client else ''
    names = words.split(',')
    try:
      with service.answering(client):
        result = service.segment(
          image,
          names,
          model=model,
          background=background or None,
          top_k=int(top_k) or None,
        )
    except Refusal as refusal:
      raise gr.Error(str(refusal)) from refusal
    kinds = [f'stage {i + 1}' for i in range(len(result.groups))]
    if result.config.regroup != 'none':
      kinds[-1] = 'remade from tokens'
    groups = [(result.groups_overlay(i), kind) for i, kind in enumerate(kinds)]
    learned = service.models[model].metadata.get('words', ())
    unmet = text.unmet(text.read_classes(names, bool(background)), learned)
    return _annotated(gr, result), legend(result, unmet), groups

  # Gradio finds the request by its annotation.
  answer.__annotations__['request'] = gr.Request
  blocks = gr.Blocks(
    title='groupvit', analytics_enabled=False, delete_cache=(600, _KEPT)
  )
  with blocks:
    gr.Markdown('# Segment an image with any words')
    with gr.Row():
      with gr.Column():
        image = gr.Image(type='numpy', sources=['upload', 'clipboard'])
        words = gr.Textbox(
          known or 'dog,grass,sky', label='classes, between commas'
        )
        model = gr.Dropdown(names, value=names[0], label='model')
        background = gr.Slider(
          0, 1, 0.95, step=0.01, label='background threshold (0: none)'
        )
        top_k = gr.Slider(
          0, 20, 5, step=1, label='classes that may appear (0: all)'
        )
        run = gr.Button('segment', variant='primary')
      with gr.Column():
        shown = gr.AnnotatedImage(label='classes', elem_id='classes')
        table = gr.Markdown()
        groups = gr.Gallery(label='groups of each stage', columns=2)
    asked = [image, words, model, background, top_k]
    found = [shown, table, groups]
    events = [run.click, words.submit, image.upload]
    events += [model.change, background.release, top_k.release]
    # What was typed during an answer is answered next.
    gr.on(events, answer, asked, found, trigger_mode='always_last')
    gr.Examples(_drawn(), [image, words], cache_examples=False)
  return blocks


def _annotated(gr: Any, result: Segmentation) -> Any:
  table = colours.class_colours(result.names, result.background)
  return gr.AnnotatedImage(
    (
      result.image,
      [
        (result.labels == result.names.index(name), name)
        for name in result.areas()
        if not (result.background and name == result.names[0])
      ],
    ),
    color_map={
      name: colours.hex_colour(colour)
      for name, colour in zip(result.names, table, strict=True)
    },
  )


def legend(result: Segmentation, unmet: Sequence[str] = ()) -> str:
  """Areas and scores as a table in Markdown, and what makes it doubtful.

  Args:
    result: of the model.
    unmet: classes that its training never named.
  """
  lines = ['| class | area | score |', '|---|---|---|']
  areas, scores = result.areas(), result.mean_scores()
  for name in sorted(areas, key=lambda name: -areas[name]):
    score = f'{scores[name]:.2f}'
    if result.background and name == result.names[0]:
      score = ''
    share = areas[name] / result.labels.size
    lines.append(f'| {_plain(name)} | {share:.0%} | {score} |')
  if len(result.names) == 1 + result.background:
    lines += ['', 'One class alone takes everything: name what else is there.']
  if unmet:
    lines += ['', f'Never met in training: {", ".join(map(_plain, unmet))}.']
  if result.unsure:
    lines += [
      '',
      f'Unsure: no class stands out (entropy {result.entropy:.2f}).',
    ]
  return '\n'.join(lines)


def _plain(name: str) -> str:
  """A name without what Markdown or HTML would obey."""
  return name.replace('|', '/').replace('<', '&lt;')


def _drawn() -> list[list[Any]]:
  """Example scenes, and words for them."""
  seed = scenes.split_seed('test', 0)
  return [
    [Image.fromarray(scenes.generate(seed, index, _SIDE).image), words]
    for index, words in _EXAMPLES
  ]
