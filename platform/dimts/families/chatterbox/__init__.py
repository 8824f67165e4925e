"""Chatterbox: a Llama that writes speech tokens after text, fine-tuned as it was published."""
