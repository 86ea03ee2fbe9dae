"""The oracles that tell an exhibit from its corrected twin."""
