"""Judges of open-ended answers: a language model behind an endpoint, or a rule; and the scores they add up to."""
