"""Text: tokenizers, prompts, and nouns of captions."""

from groupvit_jax.text.base import CLIP_CONTEXT_LENGTH, Tokenizer

__all__ = ['CLIP_CONTEXT_LENGTH', 'Tokenizer', 'make_tokenizer']


def make_tokenizer(
  name_or_path: str, context_length: int = CLIP_CONTEXT_LENGTH
) -> Tokenizer:
  """Makes the tokenizer that a configuration names.

  Args:
    name_or_path: 'clip', a sentencepiece `.model` file, or the folder that
      `groupvit tokenizer train` wrote.
    context_length: ids in a row, SOT and EOT included.

  Returns:
    The tokenizer.

  Raises:
    FileNotFoundError: no such file, or the folder holds no model.
    ValueError: the file is no sentencepiece model.
  """
  # Here, so that who needs prompts alone does not load the vocabularies'
  # libraries: every command starts with prompts.
  from groupvit_jax.text import clip, sentencepiece

  if name_or_path == 'clip':
    return clip.ClipTokenizer(context_length)
  return sentencepiece.SentencePieceTokenizer(name_or_path, context_length)
