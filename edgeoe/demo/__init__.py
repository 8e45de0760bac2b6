"""The whole line on real data that comes with a dependency, in about a minute."""
