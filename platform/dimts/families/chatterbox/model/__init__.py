"""The T3 of Chatterbox in plain torch, with the names of the published weights."""
