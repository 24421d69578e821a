"""Who reads the prompts of a model, by what its declaration says that it reads."""

from octavo.engine.inputs import ReaderFactory, TextReader
from octavo.speech.model import SpeechModel

READERS: dict[str, ReaderFactory] = {"text": TextReader.of, "speech": SpeechModel.load}
