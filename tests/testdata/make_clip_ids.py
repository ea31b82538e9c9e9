"""Writes clip_ids.json: texts and the ids that CLIP's own tokenizer gives them.

Run where open_clip_torch is installed (it brings torch):

  python tests/testdata/make_clip_ids.py

Only the tokenizer file of open_clip is loaded, because the package itself
wants torchvision.
"""

import importlib.util
import json
import pathlib

CONTEXT_LENGTH = 77

# The captions are our own.
TEXTS = (
  'a photo of a cat',
  'A red apple next to two fish on the sand.',
  'Two dogs, one brown and one white, run through the snow .',
  'itap of my café au lait',
  '',
  '   ',
  'a\tb\n\nc  d',
  "it's the dog's ball, isn't it? they'll've said I'd we're I'm",
  "IT'S SHOUTED, DON'T",
  'in 2024, 12345 people; 3.14 and 1/2',
  '½ ² Ⅷ ٣ １２',
  'Tom &amp; Jerry &lt;3 &quot;cheese&quot;',
  'twice &amp;amp; escaped &amp;lt;b&amp;gt; &#39;x&#39; &#x1F600; &nbsp;end',
  'mojibake: cafÃ© â€œquotesâ€\x9d',
  '“curly” ‘quotes’ — dashes … and ﬁ ligatures',
  'naïve façade Ångström ß İstanbul ÇELİK',
  'e\u0301 decomposed and \u00e9 composed',
  '猫がソファに座っている',
  '一只狗在雪地里跑',
  '고양이 사진',
  'кошка на диване',
  'صورة قطة',
  'รูปแมว',
  'a dog 🐕 and a family 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷',
  '!!!???...,,, --- *** ((( )))',
  '#hashtag @user https://example.com/a?b=c&d=e user@example.com',
  'snake_case CamelCase kebab-case path/to/file.jpg',
  '<b>bold</b> <br/> </w> word</w>',
  'control \x00\x01\x1b[31m\x7f\x85 characters \u200b\u200d\ufeff end',
  '\u2028line\u2029separators\u3000wide space',
  'lone surrogate \ud800 here',
  'private use \ue000\ue0ff\ue100\U000f0000',
  'pneumonoultramicroscopicsilicovolcanoconiosis',
  'a' * 300,
  'qzxj' * 80,
  'word ' * 200,
  'one two three ' * 24 + 'four',
  '7' * 100,
  '&' * 90,
)


def load_open_clip_tokenizer():
  """The SimpleTokenizer class of the installed open_clip_torch."""
  package = pathlib.Path(importlib.util.find_spec('open_clip').origin).parent
  spec = importlib.util.spec_from_file_location(
    'open_clip_tokenizer', package / 'tokenizer.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.SimpleTokenizer


def main() -> None:
  """Writes the file beside this script."""
  rows = load_open_clip_tokenizer()()(list(TEXTS), CONTEXT_LENGTH).tolist()
  entries = []
  for text, row in zip(TEXTS, rows, strict=True):
    end = row.index(49407) + 1
    assert not any(row[end:])
    entries.append({'text': text, 'ids': row[:end]})
  lines = ',\n'.join(json.dumps(entry) for entry in entries)
  path = pathlib.Path(__file__).with_name('clip_ids.json')
  path.write_text(f'[\n{lines}\n]\n')
  print(f'{path}: {len(entries)} texts')


if __name__ == '__main__':
  main()
