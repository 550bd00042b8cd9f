"""From annotation files to batches: mixtures, samples, frame groups, shards."""
