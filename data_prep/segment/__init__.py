"""Long recordings and their texts -> a corpus of utterances cut in pauses."""
