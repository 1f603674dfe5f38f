"""A page to try a trained model: ask by voice, picture or text, see and hear what an index holds that is nearest."""
