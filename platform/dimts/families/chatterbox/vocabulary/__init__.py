"""The vocabulary of published Chatterbox models, and how a language is added to it."""
