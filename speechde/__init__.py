"""speechde: speech–text retrieval across languages, from a text LLM turned into a dual encoder."""

__version__ = "0.1.0"
