"""From an image to ``dist/<release>/`` and on to other engines, and the proof that what arrives is what was made."""
