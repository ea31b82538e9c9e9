"""Builds `clip_bpe.model`, CLIP's vocabulary as a sentencepiece model.

Run once by a maintainer; the model is committed, the merges are not:

  python tests/testdata/make_clip_bpe.py [--merges FILE.txt.gz] [--out FILE]

Without --merges it reads those of the installed `open_clip_torch` (MIT). The
merges are OpenAI's (MIT).
"""

import argparse
import gzip
import hashlib
import importlib.util
import pathlib
from typing import Any

from groupvit_jax.text import clip

MERGES_NAME = 'bpe_simple_vocab_16e6.txt.gz'
MERGES_SHA256 = (
  '924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a'
)
# What CLIP keeps of the file (openai/CLIP, simple_tokenizer.py): with 256
# bytes, 256 end-of-word bytes and 2 marks that makes 49,408 ids.
NUM_MERGES = 49152 - 256 - 2
END = '</w>'


def find_merges() -> pathlib.Path:
  """The file inside the installed `open_clip_torch`, or FileNotFoundError."""
  # find_spec does not import the package, which would import torch.
  spec = importlib.util.find_spec('open_clip')
  if spec is None or spec.origin is None:
    raise FileNotFoundError(
      'open_clip_torch is not installed: `pip install open_clip_torch` or '
      f'give --merges path/to/{MERGES_NAME}'
    )
  return pathlib.Path(spec.origin).parent / MERGES_NAME


def read_merges(path: pathlib.Path) -> list[tuple[str, str]]:
  """The 48,894 pairs that CLIP uses, in order, of its gzipped text file.

  Raises:
    ValueError: the file is not CLIP's.
  """
  raw = path.read_bytes()
  if hashlib.sha256(raw).hexdigest() != MERGES_SHA256:
    raise ValueError(f"{path} is not CLIP's merges file (its sha256 differs)")
  lines = gzip.decompress(raw).decode('utf-8').split('\n')
  pairs = [tuple(line.split()) for line in lines[1 : 1 + NUM_MERGES]]
  return [(first, second) for first, second in pairs]


def pieces(merges: list[tuple[str, str]]) -> list[str]:
  """The private-use spelling of ids 0 to 49,405, in order."""
  byte_of = clip.alphabet()

  def spell(symbol: str) -> str:
    raw = bytes(byte_of[c] for c in symbol.removesuffix(END))
    whole = symbol.endswith(END)
    return clip.carry(raw) if whole else clip.carry_part(raw)

  single = [clip.carry_part(bytes([b])) for b in byte_of.values()]
  final = [clip.carry(bytes([b])) for b in byte_of.values()]
  return single + final + [spell(a + b) for a, b in merges]


def build(merges: list[tuple[str, str]]) -> bytes:
  """The serialised sentencepiece model of CLIP's pairs.

  sentencepiece merges the pair whose piece has the highest score, so
  score = -id gives CLIP's order of merges.
  """
  # Needs the protobuf package, which only building does.
  from sentencepiece import sentencepiece_model_pb2

  spb: Any = sentencepiece_model_pb2  # its classes are made at run time

  model = spb.ModelProto()
  for score, piece in enumerate(pieces(merges)):
    model.pieces.add(piece=piece, score=-score)
  kind = spb.ModelProto.SentencePiece
  model.pieces.add(piece=clip.SOT_TEXT, score=0, type=kind.CONTROL)
  model.pieces.add(piece=clip.EOT_TEXT, score=0, type=kind.CONTROL)
  # sentencepiece requires an unknown piece; every byte has a piece, so this id
  # (above CLIP's) is never returned.
  model.pieces.add(piece='<unk>', score=0, type=kind.UNKNOWN)
  model.trainer_spec.model_type = spb.TrainerSpec.BPE
  model.trainer_spec.vocab_size = len(model.pieces)
  model.trainer_spec.unk_id = len(model.pieces) - 1
  model.trainer_spec.bos_id = clip.SOT_ID
  model.trainer_spec.eos_id = clip.EOT_ID
  model.trainer_spec.bos_piece = clip.SOT_TEXT
  model.trainer_spec.eos_piece = clip.EOT_TEXT
  model.trainer_spec.pad_id = -1
  model.normalizer_spec.name = 'identity'
  model.normalizer_spec.add_dummy_prefix = False
  model.normalizer_spec.remove_extra_whitespaces = False
  model.normalizer_spec.escape_whitespaces = False
  return model.SerializeToString(deterministic=True)


def main(argv: list[str] | None = None) -> None:
  """Command line; see the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--merges', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, default=clip.MODEL_PATH)
  args = parser.parse_args(argv)
  model = build(read_merges(args.merges or find_merges()))
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_bytes(model)
  print(f'{args.out}: {len(model):,} bytes')


if __name__ == '__main__':
  main()
