"""From raw results to figures: everything here is computed again from the files of a run."""
