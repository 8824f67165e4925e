"""Speech to the letters of its text: a judge of voices in languages that no recogniser knows."""
