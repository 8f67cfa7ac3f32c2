"""What a model is worth: exact metrics on separate and merged indexes, their intervals, and the pages that show them."""
